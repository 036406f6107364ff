// Has the example device add up memory: the result comes with an interrupt, and what it may not
// touch is an error. Needs the example device. Options: device=N, the device ID of a copy of it.

#include "devices/example/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::example;

alignas(64) uint8_t bytes[1000];
uint64_t registers = 0;

void Request(uint64_t address, uint32_t length) {
  MmioWrite<uint64_t>(registers + kAddressOffset, address);
  MmioWrite<uint32_t>(registers + kLengthOffset, length);
  MmioWrite<uint32_t>(registers + kDoorbellOffset, 0);
}

uint32_t StatusOf(uint64_t address, uint32_t length) {
  Request(address, length);
  EXPECT_TRUE(WaitFor([] { return MmioRead<uint32_t>(registers + kStatusOffset) > kRequested; }));
  return MmioRead<uint32_t>(registers + kStatusOffset);
}

}  // namespace

void RunExampleTest() {
  const PciFunction example =
      FindFunction(kVendorId, static_cast<uint16_t>(NumberOption("device", kDeviceId)));
  registers = example.ReadBar(kBar).address;
  example.SetCommandBits(kCommandMemory);
  example.ClearCommandBits(kCommandBusMaster);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kIdentificationOffset), kIdentification);
  for (uint32_t i = 0; i < sizeof(bytes); ++i) bytes[i] = static_cast<uint8_t>(i % 10);

  EXPECT_EQ(StatusOf(AddressOf(bytes), 10), kNotBusMaster);
  example.SetCommandBits(kCommandBusMaster);
  EXPECT_EQ(StatusOf(AddressOf(bytes), kMaxLength + 1), kBadLength);
  EXPECT_EQ(StatusOf(LowRamEnd(), 10), kBadAddress);

  const Msix msix(example);
  msix.Route(0, 0, kFirstVector);
  msix.SetMasked(0, false);
  msix.SetEnabled(true);
  SetInterruptsEnabled(true);
  for (uint32_t round = 1; round <= 20; ++round) {
    Request(AddressOf(bytes), 50 * round);
    EXPECT_TRUE(WaitFor([=] { return InterruptCount(kFirstVector) == round; }));
    EXPECT_EQ(MmioRead<uint32_t>(registers + kStatusOffset), kDone);
    EXPECT_EQ(MmioRead<uint64_t>(registers + kSumOffset), 45u * 5 * round);
    MmioWrite<uint32_t>(registers + kStatusOffset, 0);
  }
}

}  // namespace bulkhead::guest
