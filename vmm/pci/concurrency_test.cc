// Several vCPUs at the same functions at the same time. Run it under --config=tsan as well.
#include <stdint.h>

#include <latch>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/pci/fake_device_access.h"
#include "vmm/pci/test_machine.h"

namespace bulkhead::vmm {
namespace {

using ::testing::IsEmpty;

constexpr uint32_t kVcpus = 4;
constexpr int kRounds = 10000;

TEST(PciConcurrencyTest, VcpusThatChangeTwoFunctionsConcurrentlyLeaveThemConsistent) {
  TestMachine machine;
  FakeDeviceAccess devices[2];
  DeviceFunction* functions[2];
  FunctionSpec specs[2];
  for (uint32_t i = 0; i < 2; ++i) {
    specs[i].name = "device";
    specs[i].function.vendor_id = 0x1af4;
    specs[i].function.bars = {{.index = 0, .size_bytes = 0x1000}};
    specs[i].function.msix_vectors = 2;
    specs[i].msix_event_fds = {machine.NewEvent(), machine.NewEvent()};
    specs[i].intx = {.event_fd = machine.NewEvent(), .resample_fd = machine.NewEvent()};
    specs[i].doorbells = {{.region = 0, .offset = 8}};
    specs[i].doorbell_event_fds = {machine.NewEvent()};
    functions[i] = *machine.host->AddFunction(i + 1, specs[i], devices[i]);
  }
  ASSERT_TRUE(machine.host->PlaceBars().ok());

  std::latch start(kVcpus);  // makes the threads run at the same time
  std::vector<std::thread> vcpus;
  for (uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
    vcpus.emplace_back([&, vcpu] {
      std::mt19937 random(vcpu);
      AddressSpace::View memory(machine.memory);
      AddressSpace::View ports(machine.ports);
      start.arrive_and_wait();
      for (int round = 0; round < kRounds; ++round) {
        const uint32_t slot = 1 + random() % 2;
        const GuestAddress config = TestMachine::EcamAddress(slot, 0);
        const GuestAddress place = layout::kMmio32Start + 0x1000 * (random() % 4);
        switch (random() % 8) {
          case 0:
            memory.Write(vcpu, config + 0x10, 4, place);
            break;
          case 1:
            memory.Write(vcpu, config + 0x14, 4, place);  // MSI-X
            break;
          case 2:
            memory.Write(vcpu, config + 0x04, 2, random() & 0x406);
            break;
          case 3:
            memory.Write(vcpu, config + 0x42, 2, random() & 0xc000);
            break;
          case 4:  // unmask or mask; BAR contents otherwise
            memory.Write(vcpu, place + 12 + 16 * (random() % 2), 4, random() & 1);
            break;
          case 5:
            memory.Write(vcpu, place + 8, 4, random());
            memory.Read(vcpu, place + 32, 8);
            break;
          case 6:
            ports.Write(vcpu, 0xcf8, 4, 0x80000000 | slot << 11 | (random() & 0x3c));
            ports.Read(vcpu, 0xcfc, 4);
            break;
          case 7:
            machine.events[random() % machine.events.size()].Signal();
            functions[slot - 1]->bars();
            break;
        }
      }
    });
  }
  for (std::thread& vcpu : vcpus) vcpu.join();

  EXPECT_THAT(machine.routing.violations(), IsEmpty());
  for (uint32_t i = 0; i < 2; ++i) {
    // The last state that the device got is that of the registers.
    const uint32_t command = machine.ReadConfig(i + 1, 0x04, 2);
    const uint32_t control = machine.ReadConfig(i + 1, 0x42, 2);
    EXPECT_EQ(devices[i].state().bus_master, (command & 4) != 0);
    EXPECT_EQ(devices[i].state().msix_enabled, (control & 0x8000) != 0);
    EXPECT_EQ(devices[i].state().intx_disabled, (command & 0x400) != 0);
    EXPECT_EQ(machine.routing.IsBound(specs[i].intx->event_fd),
              (control & 0x8000) == 0 && (command & 0x400) == 0);
    for (const DeviceFunction::BarState& bar : functions[i]->bars()) {
      if ((command & 2) == 0) {
        EXPECT_FALSE(bar.decoded);
      }
    }
  }
  machine.host.reset();
  EXPECT_EQ(machine.routing.bound_irqs(), 0u);
  EXPECT_THAT(machine.routing.doorbells(), IsEmpty());
  EXPECT_THAT(machine.routing.violations(), IsEmpty());
}

}  // namespace
}  // namespace bulkhead::vmm
