#include "vmm/pci/pci_host.h"

#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/pci/fake_device_access.h"
#include "vmm/pci/test_machine.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint32_t kSlot = 1;
constexpr uint32_t kCommand = 0x04;
constexpr uint32_t kMemory = 2;
constexpr uint32_t kMaster = 4;
constexpr uint32_t kIntxDisable = 0x400;
constexpr uint32_t kMsixCapability = 0x40;
constexpr uint32_t kCommonCapability = 0x4c;
constexpr uint32_t kPciCfgCapability = 0x5c;
constexpr uint32_t kAdvancedFeatures = 0x74;
constexpr GuestAddress kLow = layout::kMmio32Start;
constexpr GuestAddress kHigh = TestMachine::kHighStart;

// A machine with one virtio-like function at slot 1: a 64-bit BAR 0 with a doorbell, a 32-bit
// BAR 2, MSI-X (its BAR is 3), INTx, a constant capability and a forwarded one.
class PciHostTest : public ::testing::Test {
 protected:
  PciHostTest() {
    vector_ = machine_.NewEvent();
    intx_ = machine_.NewEvent();
    resample_ = machine_.NewEvent();
    doorbell_ = machine_.NewEvent();
    function_ = *machine_.host->AddFunction(kSlot, Spec("disk0"), device_);
    EXPECT_TRUE(machine_.host->PlaceBars().ok());
  }
  ~PciHostTest() override {
    machine_.host.reset();
    EXPECT_EQ(machine_.routing.bound_irqs(), 0u);
    EXPECT_THAT(machine_.routing.doorbells(), IsEmpty());
    EXPECT_THAT(machine_.routing.violations(), IsEmpty());
  }

  FunctionSpec Spec(std::string name) {
    FunctionSpec spec;
    spec.name = std::move(name);
    spec.function.vendor_id = 0x1af4;
    spec.function.device_id = 0x1042;
    spec.function.class_code = 0x010000;
    spec.function.revision_id = 1;
    spec.function.subsystem_vendor_id = 0x1af4;
    spec.function.subsystem_id = 0x0042;
    spec.function.bars = {
        {.index = 0, .size_bytes = 0x4000, .is_64bit = true, .prefetchable = true},
        {.index = 2, .size_bytes = 0x100}};
    spec.function.msix_vectors = 1;
    spec.msix_event_fds = {vector_};
    spec.function.has_intx = true;
    spec.intx = {.event_fd = intx_, .resample_fd = resample_};
    spec.function.capabilities = {
        {.id = 9, .body = {16, 1, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 0}},
        {.id = 9,
         .body = {20, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7},
         .forwarded = true}};
    spec.doorbells = {{.region = 0, .offset = 0x3000, .size_bytes = 2}};
    spec.doorbell_event_fds = {doorbell_};
    return spec;
  }

  uint32_t Read(uint32_t offset, uint8_t size = 4) {
    return machine_.ReadConfig(kSlot, offset, size);
  }
  void Write(uint32_t offset, uint32_t value, uint8_t size = 4) {
    machine_.WriteConfig(kSlot, offset, value, size);
  }
  std::vector<FakeEventRouting::Doorbell> DoorbellAt(GuestAddress address) {
    return {{address, 2, doorbell_}};
  }

  TestMachine machine_;
  FakeDeviceAccess device_;
  int vector_, intx_, resample_, doorbell_;
  DeviceFunction* function_;
};

TEST_F(PciHostTest, TheHeaderShowsTheDevice) {
  EXPECT_EQ(Read(0x00), 0x10421af4u);
  EXPECT_EQ(Read(0x04), 0x00100000u);  // command 0; status: capability list
  EXPECT_EQ(Read(0x08), 0x01000001u);
  EXPECT_EQ(Read(0x0c), 0u);  // header type 0, one function
  EXPECT_EQ(Read(0x28), 0u);
  EXPECT_EQ(Read(0x2c), 0x00421af4u);
  EXPECT_EQ(Read(0x34), 0x40u);
  EXPECT_EQ(Read(0x3c), 0x0111u);  // INTA#, GSI 17
}

TEST_F(PciHostTest, ReadOnlyFieldsSurviveWritesOfAllOnes) {
  for (uint32_t offset : {0x00u, 0x08u, 0x20u, 0x24u, 0x28u, 0x2cu, 0x30u, 0x34u, 0x38u}) {
    const uint32_t before = Read(offset);
    Write(offset, 0xffffffff);
    EXPECT_EQ(Read(offset), before) << offset;
  }
  Write(0x0c, 0xffffffff);
  EXPECT_EQ(Read(0x0c), 0x000000ffu);  // the guest may write the cache line size
  Write(0x3c, 0xffffffff);
  EXPECT_EQ(Read(0x3c), 0x000001ffu);
  Write(kCommand, 0xffffffff);
  EXPECT_EQ(Read(kCommand), 0x00100407u);
}

TEST_F(PciHostTest, ExtendedConfigSpaceHasNoCapabilities) {
  for (uint32_t offset = 0x100; offset < 0x1000; offset += 4) {
    Write(offset, 0xffffffff);
    ASSERT_EQ(Read(offset), 0u) << offset;
  }
}

TEST_F(PciHostTest, EnumerationFindsTheSameFunctionsByBothMechanisms) {
  for (uint32_t slot = 0; slot < 32; ++slot) {
    machine_.port_view.Write(0, 0xcf8, 4, 0x80000000 | slot << 11);
    const uint64_t by_ports = machine_.port_view.Read(0, 0xcfc, 4);
    EXPECT_EQ(by_ports, machine_.ReadConfig(slot, 0)) << slot;
    EXPECT_EQ(by_ports != 0xffffffff, slot <= 1) << slot;
  }
}

TEST_F(PciHostTest, TheCapabilityListIsChainedInOrder) {
  EXPECT_EQ(Read(kMsixCapability), 0x00004c11u);  // one vector: table size 0
  EXPECT_EQ(Read(kMsixCapability + 4), 3u);       // table: BAR 3, offset 0
  EXPECT_EQ(Read(kMsixCapability + 8), 16u | 3u);
  EXPECT_EQ(Read(kCommonCapability), 0x01105c09u);
  EXPECT_EQ(Read(kCommonCapability + 8), 0x00001000u);
  EXPECT_EQ(Read(kCommonCapability + 12), 0x00001000u);
  EXPECT_EQ(Read(kPciCfgCapability, 2), 0x7409u);
  EXPECT_EQ(Read(kAdvancedFeatures), 0x03060013u);
  EXPECT_EQ(Read(kAdvancedFeatures + 4, 2), 0u);
}

TEST_F(PciHostTest, TheVmmAnswersConstantCapabilitiesAndTheyAreReadOnly) {
  Write(kCommonCapability + 8, 0xffffffff);
  EXPECT_EQ(Read(kCommonCapability + 8), 0x00001000u);
  EXPECT_THAT(device_.TakeCalls(), IsEmpty());
}

TEST_F(PciHostTest, TheDeviceAnswersForwardedCapabilityBodies) {
  device_.set_answer(0xaabbccdd'44332211);
  EXPECT_EQ(Read(kPciCfgCapability + 16), 0x44332211u);
  EXPECT_EQ(Read(kPciCfgCapability + 16, 2), 0x2211u);
  EXPECT_EQ(Read(kPciCfgCapability + 4, 1), 0x11u);
  Write(kPciCfgCapability + 16, 0x99887766);
  Write(kPciCfgCapability + 6, 0x1234, 2);
  EXPECT_THAT(device_.TakeCalls(),
              ElementsAre("read 17+0xe/4", "read 17+0xe/2", "read 17+0x2/1",
                          "write 17+0xe/4=0x99887766", "write 17+0x4/2=0x1234"));
}

TEST_F(PciHostTest, AccessesAcrossTheEdgesOfAForwardedBodyAreSplit) {
  device_.set_answer(0xffffffff);
  // ID and next pointer are the vmm's, the next two bytes the device's.
  EXPECT_EQ(Read(kPciCfgCapability), 0xffff7409u);
  Write(kPciCfgCapability, 0x44332211);
  EXPECT_EQ(Read(kPciCfgCapability, 2), 0x7409u);
  // The body ends one byte into the dword at +20; padding reads as 0.
  EXPECT_EQ(Read(kPciCfgCapability + 20), 0x000000ffu);
  Write(kPciCfgCapability + 20, 0x44332211);
  // A misaligned access to three bytes of one dword and one of the next.
  EXPECT_EQ(
      machine_.memory_view.Read(0, TestMachine::EcamAddress(kSlot, kPciCfgCapability + 17), 4),
      0xffffffffu);
  EXPECT_THAT(
      device_.TakeCalls(),
      ElementsAre("read 17+0x0/2", "write 17+0x0/2=0x4433", "read 17+0x12/1",
                  "write 17+0x12/1=0x11", "read 17+0xf/1", "read 17+0x10/2", "read 17+0x12/1"));
}

TEST_F(PciHostTest, BarsHaveAddressesButAreNotDecodedUntilTheGuestEnablesThem) {
  EXPECT_EQ(Read(0x10), static_cast<uint32_t>(kHigh) | 0xc);
  EXPECT_EQ(Read(0x14), static_cast<uint32_t>(kHigh >> 32));
  EXPECT_EQ(Read(0x1c), kLow);  // MSI-X, the larger one
  EXPECT_EQ(Read(0x18), kLow + 0x1000);
  EXPECT_EQ(machine_.memory_view.Read(0, kHigh, 4), 0xffffffffu);
  EXPECT_THAT(machine_.routing.doorbells(), IsEmpty());
}

TEST_F(PciHostTest, SizingBarsAsLinuxDoesShowsTheirSizesAndChangesNothing) {
  Write(kCommand, kMemory, 2);
  const int calls = machine_.routing.doorbell_calls();
  Write(kCommand, 0, 2);  // Linux sizes with decoding off
  const auto size_of = [&](uint32_t bar) {
    const uint32_t old = Read(bar);
    Write(bar, 0xffffffff);
    const uint32_t mask = Read(bar);
    Write(bar, old);
    return mask;
  };
  EXPECT_EQ(size_of(0x10), 0xffffc00cu);
  EXPECT_EQ(size_of(0x14), 0xffffffffu);
  EXPECT_EQ(size_of(0x18), 0xffffff00u);
  EXPECT_EQ(size_of(0x1c), 0xfffff000u);
  EXPECT_EQ(size_of(0x20), 0u);
  EXPECT_EQ(size_of(0x24), 0u);
  EXPECT_EQ(size_of(0x30), 0u);  // no expansion ROM
  Write(kCommand, kMemory, 2);
  EXPECT_EQ(machine_.routing.doorbells(), DoorbellAt(kHigh + 0x3000));
  EXPECT_EQ(machine_.routing.doorbell_calls(), calls + 2);  // off and on again, no more
}

TEST_F(PciHostTest, BarAccessesReachTheDeviceAsPostedWritesAndReads) {
  Write(kCommand, kMemory, 2);
  device_.set_answer(0x1122334455667788);
  EXPECT_EQ(machine_.memory_view.Read(0, kHigh + 0x1008, 8), 0x1122334455667788u);
  machine_.memory_view.Write(0, kLow + 0x1000 + 0x7c, 2, 0xbeef);
  EXPECT_THAT(device_.TakeCalls(), ElementsAre("read 0+0x1008/8", "post 2+0x7c/2=0xbeef"));
}

TEST_F(PciHostTest, MemoryDecodeOffUnbindsAndUnmaps) {
  Write(kCommand, kMemory, 2);
  EXPECT_EQ(machine_.routing.doorbells(), DoorbellAt(kHigh + 0x3000));
  Write(kCommand, 0, 2);
  EXPECT_THAT(machine_.routing.doorbells(), IsEmpty());
  EXPECT_EQ(machine_.memory_view.Read(0, kHigh, 4), 0xffffffffu);
  EXPECT_THAT(device_.TakeCalls(), IsEmpty());
}

TEST_F(PciHostTest, A32BitBarMovesWhileDecoded) {
  Write(kCommand, kMemory, 2);
  Write(0x18, 0xd0000000);
  machine_.memory_view.Write(0, 0xd0000010, 4, 1);
  machine_.memory_view.Write(0, kLow + 0x1010, 4, 1);  // the old address: unused
  EXPECT_THAT(device_.TakeCalls(), ElementsAre("post 2+0x10/4=0x1"));
}

TEST_F(PciHostTest, ABarWrittenByBytesMoves) {
  Write(kCommand, kMemory, 2);
  Write(0x1b, 0xd1, 1);
  Write(0x19, 0x23, 1);
  EXPECT_EQ(Read(0x18), 0xd1002300u);
  machine_.memory_view.Write(0, 0xd1002300, 1, 5);
  EXPECT_THAT(device_.TakeCalls(), ElementsAre("post 2+0x0/1=0x5"));
}

TEST_F(PciHostTest, A64BitBarMovesInEitherOrderOfItsHalves) {
  Write(kCommand, kMemory, 2);
  Write(0x10, 0x40000000);  // low half first
  EXPECT_EQ(machine_.routing.doorbells(), DoorbellAt(kHigh + 0x40003000));
  Write(0x14, (kHigh >> 32) + 1);
  EXPECT_EQ(machine_.routing.doorbells(), DoorbellAt(kHigh + 0x140003000));
  Write(0x14, kHigh >> 32);  // high half first
  Write(0x10, 0x80000000);
  EXPECT_EQ(machine_.routing.doorbells(), DoorbellAt(kHigh + 0x80003000));
  machine_.memory_view.Write(0, kHigh + 0x80000000, 4, 1);
  machine_.memory_view.Write(0, kHigh + 0x40000000, 4, 1);
  EXPECT_THAT(device_.TakeCalls(), ElementsAre("post 0+0x0/4=0x1"));
}

TEST_F(PciHostTest, A64BitBarIsNotDecodedOutsideTheWindowsWhileItsHalvesAreWritten) {
  Write(kCommand, kMemory, 2);
  Write(0x14, 0);  // now at 0: RAM
  EXPECT_THAT(machine_.routing.doorbells(), IsEmpty());
  Write(0x10, 0xc8000000);
  EXPECT_EQ(machine_.routing.doorbells(), DoorbellAt(0xc8003000));
  EXPECT_TRUE(function_->bars()[0].decoded);
  EXPECT_EQ(function_->bars()[0].address, 0xc8000000u);
}

TEST_F(PciHostTest, RewritingTheSameAddressChangesNeitherMapNorDoorbells) {
  Write(kCommand, kMemory, 2);
  const int calls = machine_.routing.doorbell_calls();
  Write(0x10, Read(0x10));
  Write(0x14, Read(0x14));
  Write(kCommand, kMemory | kMaster, 2);
  EXPECT_EQ(machine_.routing.doorbell_calls(), calls);
}

TEST_F(PciHostTest, ABarOverEcamLeavesEcamReachable) {
  Write(kCommand, kMemory, 2);
  Write(0x18, layout::kEcamStart + (kSlot << 15));
  EXPECT_EQ(Read(0x00), 0x10421af4u);
  EXPECT_FALSE(function_->bars()[1].decoded);
  Write(0x18, 0xd0000000);
  EXPECT_TRUE(function_->bars()[1].decoded);
}

TEST_F(PciHostTest, TheDeviceGetsItsStateOnlyWhenItChanges) {
  Write(kCommand, kMemory, 2);
  EXPECT_THAT(device_.TakeCalls(), IsEmpty());
  Write(kCommand, kMemory | kMaster, 2);
  Write(kCommand, kMemory | kMaster, 2);
  Write(kMsixCapability + 2, 0xc000, 2);  // enabled, function masked
  Write(kMsixCapability + 2, 0x8000, 2);
  Write(kCommand, kMemory, 2);
  Write(kCommand, kMemory | kIntxDisable, 2);
  Write(kCommand, kIntxDisable, 2);
  EXPECT_THAT(device_.TakeCalls(),
              ElementsAre("state master=1 msix=0 intx_off=0", "state master=1 msix=1 intx_off=0",
                          "state master=0 msix=1 intx_off=0", "state master=0 msix=1 intx_off=1"));
  EXPECT_TRUE(function_->state().msix_enabled);
  EXPECT_FALSE(function_->state().bus_master);
  EXPECT_TRUE(function_->state().intx_disabled);
}

TEST_F(PciHostTest, AFunctionLevelResetRestoresTheInitialState) {
  Write(kCommand, kMemory | kMaster | kIntxDisable, 2);
  Write(kMsixCapability + 2, 0x8000, 2);
  const GuestAddress table = Read(0x1c);
  machine_.memory_view.Write(0, table, 4, 0xfee01000);
  machine_.memory_view.Write(0, table + 12, 4, 0);
  EXPECT_TRUE(machine_.routing.IsBound(vector_));
  device_.TakeCalls();

  Write(kAdvancedFeatures + 5, 0xff, 1);  // status: read-only
  EXPECT_THAT(device_.TakeCalls(), IsEmpty());
  Write(kAdvancedFeatures + 4, 1, 1);
  EXPECT_THAT(device_.TakeCalls(), ElementsAre("reset", "state master=0 msix=0 intx_off=0"));
  EXPECT_EQ(Read(kCommand, 2), 0u);
  EXPECT_EQ(Read(kMsixCapability + 2, 2), 0u);
  EXPECT_FALSE(machine_.routing.IsBound(vector_));
  EXPECT_TRUE(machine_.routing.IsBound(intx_));
  EXPECT_EQ(Read(kAdvancedFeatures + 4, 2), 0u);  // the reset is over
  for (const DeviceFunction::BarState& bar : function_->bars()) {
    EXPECT_EQ(bar.address, 0u);
    EXPECT_FALSE(bar.decoded);
  }
  // As Linux does afterwards: BARs and command as before. The table is as after power-on.
  Write(0x1c, static_cast<uint32_t>(table));
  Write(kCommand, kMemory, 2);
  EXPECT_EQ(machine_.memory_view.Read(0, table, 8), 0u);
  EXPECT_EQ(machine_.memory_view.Read(0, table + 12, 4), 1u);
}

TEST_F(PciHostTest, EventsFromBeforeADevicesResetAreDiscarded) {
  Write(kCommand, kMemory, 2);
  machine_.Event(vector_).Signal();  // disabled: it stays pending
  const GuestAddress table = Read(0x1c);
  EXPECT_EQ(machine_.memory_view.Read(0, table + 16, 8), 1u);  // the PBA
  Write(kAdvancedFeatures + 4, 1, 2);
  Write(0x1c, static_cast<uint32_t>(table));
  Write(kCommand, kMemory, 2);
  EXPECT_EQ(machine_.memory_view.Read(0, table + 16, 8), 0u);
}

TEST_F(PciHostTest, AnMsixVectorProgrammedThroughTheBarDelivers) {
  Write(kCommand, kMemory | kMaster, 2);
  Write(kMsixCapability + 2, 0x8000, 2);
  const GuestAddress table = Read(0x1c);
  machine_.memory_view.Write(0, table, 4, 0xfee01000);
  machine_.memory_view.Write(0, table + 8, 4, 0x42);
  machine_.memory_view.Write(0, table + 12, 4, 0);
  machine_.Event(vector_).Signal();
  EXPECT_THAT(machine_.routing.TakeDeliveries(),
              ElementsAre(FakeEventRouting::Delivery{0, 0xfee01000, 0x42}));
  Write(kMsixCapability + 2, 0xc000, 2);  // function mask, as a whole dword access would
  machine_.Event(vector_).Signal();
  EXPECT_THAT(machine_.routing.TakeDeliveries(), IsEmpty());
  EXPECT_EQ(machine_.memory_view.Read(0, table + 16, 8), 1u);  // the PBA
}

TEST_F(PciHostTest, IntxWorksUntilMsixIsEnabledOrItIsDisabled) {
  EXPECT_TRUE(machine_.routing.IsBound(intx_));
  machine_.Event(intx_).Signal();
  EXPECT_THAT(machine_.routing.TakeDeliveries(), ElementsAre(FakeEventRouting::Delivery{17, 0, 0}));

  Write(kMsixCapability + 2, 0x8000, 2);
  EXPECT_FALSE(machine_.routing.IsBound(intx_));
  Write(kMsixCapability + 2, 0, 2);
  EXPECT_TRUE(machine_.routing.IsBound(intx_));

  Write(kCommand, kIntxDisable, 2);
  EXPECT_FALSE(machine_.routing.IsBound(intx_));
  machine_.Event(intx_).Signal();
  EXPECT_EQ(Read(0x06, 2), 0x0018u);  // Interrupt Status
  EXPECT_EQ(Read(0x04), 0x00180400u);
  EXPECT_EQ(Read(0x07, 1), 0u);
  Write(kCommand, 0, 2);
  EXPECT_EQ(Read(0x06, 2), 0x0010u);
  EXPECT_THAT(machine_.routing.TakeDeliveries(), ElementsAre(FakeEventRouting::Delivery{17, 0, 0}));
}

TEST_F(PciHostTest, TheLineIsBoundBeforeTheDeviceGetsTheStateThatEnablesIt) {
  Write(kCommand, kIntxDisable, 2);
  absl::Notification entered, leave;
  device_.HangUntil(&entered, &leave);
  std::thread vcpu([this] {
    AddressSpace::View(machine_.memory).Write(1, TestMachine::EcamAddress(kSlot, kCommand), 2, 0);
  });
  entered.WaitForNotification();
  EXPECT_TRUE(machine_.routing.IsBound(intx_));
  leave.Notify();
  vcpu.join();
  EXPECT_FALSE(device_.state().intx_disabled);
  EXPECT_FALSE(machine_.Event(resample_).IsPending());  // the vmm writes no event of a device
}

TEST_F(PciHostTest, SlotsEightApartShareAnIntxLine) {
  FakeDeviceAccess other_device;
  FunctionSpec spec = Spec("disk1");
  spec.intx = {.event_fd = machine_.NewEvent(), .resample_fd = machine_.NewEvent()};
  spec.function.msix_vectors = 0;
  spec.doorbells.clear();
  ASSERT_TRUE(machine_.host->AddFunction(kSlot + 8, spec, other_device).ok());
  EXPECT_EQ(machine_.ReadConfig(kSlot + 8, 0x3c, 1), 17u);
  machine_.Event(spec.intx->event_fd).Signal();
  EXPECT_THAT(machine_.routing.TakeDeliveries(), ElementsAre(FakeEventRouting::Delivery{17, 0, 0}));
}

TEST_F(PciHostTest, RefusedSlotsLeaveTheHostUnchanged) {
  const size_t bound = machine_.routing.bound_irqs();
  FunctionSpec spec = Spec("disk1");
  spec.intx = {.event_fd = machine_.NewEvent(), .resample_fd = machine_.NewEvent()};
  EXPECT_EQ(machine_.host->AddFunction(kSlot, spec, device_).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(machine_.host->AddFunction(0, spec, device_).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(machine_.host->AddFunction(32, spec, device_).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(machine_.routing.bound_irqs(), bound);
}

TEST_F(PciHostTest, AHungDeviceBlocksOnlyVcpusThatWaitForIt) {
  FakeDeviceAccess other_device;
  FunctionSpec spec = Spec("disk1");
  spec.intx.reset();
  spec.function.msix_vectors = 0;
  ASSERT_TRUE(machine_.host->AddFunction(2, spec, other_device).ok());
  absl::Notification hung, release;
  device_.HangUntil(&hung, &release);

  std::thread stuck_in_state([&] {
    AddressSpace::View view(machine_.memory);
    view.Write(1, TestMachine::EcamAddress(kSlot, kCommand), 2, kMaster);
  });
  hung.WaitForNotification();
  std::thread stuck_in_capability([&] {
    AddressSpace::View view(machine_.memory);
    view.Read(2, TestMachine::EcamAddress(kSlot, kPciCfgCapability + 16), 4);
  });

  // All of these would deadlock here if a lock were held over the call to the device.
  EXPECT_EQ(Read(0x00), 0x10421af4u);  // its own header
  Write(0x18, 0xd0000000);             // its own BAR
  EXPECT_EQ(machine_.ReadConfig(2, 0x00), 0x10421af4u);
  machine_.WriteConfig(2, kCommand, kMemory | kMaster, 2);
  EXPECT_THAT(other_device.TakeCalls(), ElementsAre("state master=1 msix=0 intx_off=0"));
  machine_.port_view.Write(0, 0xcf8, 4, 0x80001000);
  EXPECT_EQ(machine_.port_view.Read(0, 0xcfc, 4), 0x10421af4u);

  release.Notify();
  stuck_in_state.join();
  stuck_in_capability.join();
}

TEST(PciHostCreateTest, AnOccupiedAddressIsAnErrorAndKeepsItsHandler) {
  AddressSpace memory, ports;
  FakeEventRouting routing;
  HostBridge bridge;
  PciBus bus;
  Ecam occupant(bus);
  ASSERT_TRUE(memory.Insert(layout::kEcamStart, 4096, &occupant).ok());
  EXPECT_EQ(PciHost::Create(memory, ports, routing, TestMachine::kWindows).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(memory.Remove(layout::kEcamStart).ok());
}

TEST(ChooseSlotsTest, RequestedSlotsAreKeptAndTheOtherDevicesGetFreeOnes) {
  EXPECT_THAT(*PciHost::ChooseSlots({0, 2, 0, 1}), ElementsAre(3, 2, 4, 1));
  EXPECT_EQ(PciHost::ChooseSlots({4, 4}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PciHost::ChooseSlots({32}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PciHost::ChooseSlots(std::vector<uint32_t>(31)).value().back(), 31u);
  EXPECT_EQ(PciHost::ChooseSlots(std::vector<uint32_t>(32)).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// A vCPU that waits for a lock cannot be paused; one that waits for the device can.
TEST_F(PciHostTest, SeveralVcpusWaitForAHungDeviceAtTheSameTime) {
  absl::Notification hung, release;
  device_.HangUntil(&hung, &release);
  std::vector<std::thread> vcpus;
  vcpus.emplace_back([&] {
    AddressSpace::View(machine_.memory)
        .Write(1, TestMachine::EcamAddress(kSlot, kCommand), 2, kMaster);
  });
  hung.WaitForNotification();
  vcpus.emplace_back([&] {
    AddressSpace::View(machine_.memory)
        .Write(2, TestMachine::EcamAddress(kSlot, kMsixCapability + 2), 2, 0x8000);
  });
  vcpus.emplace_back([&] {  // a function-level reset
    AddressSpace::View(machine_.memory)
        .Write(3, TestMachine::EcamAddress(kSlot, kAdvancedFeatures + 4), 1, 1);
  });
  size_t calls = 0;
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (calls < 3 && absl::Now() < deadline) {
    calls += device_.TakeCalls().size();
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(calls, 3u);
  release.Notify();
  for (std::thread& vcpu : vcpus) vcpu.join();
  // In any order of the calls, the device ends with the registers' state.
  EXPECT_EQ(device_.state().bus_master, function_->state().bus_master);
  EXPECT_EQ(device_.state().msix_enabled, function_->state().msix_enabled);
}

}  // namespace
}  // namespace bulkhead::vmm
