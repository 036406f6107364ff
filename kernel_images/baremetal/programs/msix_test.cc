// MSI-X: delivery, masking by entry and by function, pending bits, re-routing, other CPUs.
// Needs the rig. Options: cpus=N (1): with two, delivery to the second too.

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::rig;

uint64_t registers;

constexpr uint8_t VectorOf(uint32_t entry) { return static_cast<uint8_t>(kFirstVector + entry); }

void Raise(uint32_t causes) {
  MmioWrite<uint32_t>(registers + kInterruptRaiseOffset, causes);
  // A read flushes the posted write: when it is answered, the device has signalled.
  EXPECT_EQ(MmioRead<uint32_t>(registers + kInterruptStatusOffset) & causes, causes);
  MmioWrite<uint32_t>(registers + kInterruptAckOffset, causes);
}

bool Arrives(uint8_t vector, uint32_t count) {
  return WaitFor([=] { return InterruptCount(vector) == count; });
}

void ExpectCountStays(uint8_t vector, uint32_t count) {
  Delay(kShortWaitCycles);
  EXPECT_EQ(InterruptCount(vector), count);
}

void CheckDelivery(const Msix& msix) {
  for (uint32_t entry = 0; entry < kMsixVectors; ++entry) {
    for (uint32_t i = 1; i <= 3; ++i) {
      Raise(1u << entry);
      EXPECT_TRUE(Arrives(VectorOf(entry), i));
    }
    EXPECT_TRUE(!msix.IsPending(entry));
  }
}

void CheckMasked(const Msix& msix, uint32_t entry) {
  const uint32_t before = InterruptCount(VectorOf(entry));
  msix.SetMasked(entry, true);
  EXPECT_TRUE(!msix.IsPending(entry));
  Raise(1u << entry);
  Raise(1u << entry);
  EXPECT_TRUE(msix.IsPending(entry));
  EXPECT_TRUE(!msix.IsPending(entry ^ 1));
  ExpectCountStays(VectorOf(entry), before);
  // Two messages held back are one interrupt.
  msix.SetMasked(entry, false);
  EXPECT_TRUE(Arrives(VectorOf(entry), before + 1));
  EXPECT_TRUE(!msix.IsPending(entry));
  ExpectCountStays(VectorOf(entry), before + 1);
  Raise(1u << entry);
  EXPECT_TRUE(Arrives(VectorOf(entry), before + 2));
}

void CheckFunctionMasked(const Msix& msix) {
  const uint32_t before_0 = InterruptCount(VectorOf(0));
  const uint32_t before_5 = InterruptCount(VectorOf(5));
  msix.SetFunctionMasked(true);
  Raise(0b100001);
  EXPECT_TRUE(msix.IsPending(0) && msix.IsPending(5) && !msix.IsPending(1));
  ExpectCountStays(VectorOf(0), before_0);
  EXPECT_EQ(InterruptCount(VectorOf(5)), before_5);
  msix.SetFunctionMasked(false);
  EXPECT_TRUE(Arrives(VectorOf(0), before_0 + 1));
  EXPECT_TRUE(Arrives(VectorOf(5), before_5 + 1));
  EXPECT_TRUE(!msix.IsPending(0) && !msix.IsPending(5));
}

// What is pending goes where the entry leads when it is unmasked.
void CheckReroutingWhilePending(const Msix& msix) {
  constexpr uint8_t kOther = kFirstVector + 0x20;
  const uint32_t before = InterruptCount(VectorOf(2));
  const uint32_t before_other = InterruptCount(kOther);
  msix.SetMasked(2, true);
  Raise(1u << 2);
  msix.Route(2, 0, kOther);
  msix.SetMasked(2, false);
  EXPECT_TRUE(Arrives(kOther, before_other + 1));
  EXPECT_EQ(InterruptCount(VectorOf(2)), before);
  msix.SetMasked(2, true);
  msix.Route(2, 0, VectorOf(2));
  msix.SetMasked(2, false);
  Raise(1u << 2);
  EXPECT_TRUE(Arrives(VectorOf(2), before + 1));
  EXPECT_EQ(InterruptCount(kOther), before_other + 1);
}

void CheckDisabled(const Msix& msix) {
  const uint32_t before = InterruptCount(VectorOf(4));
  msix.SetEnabled(false);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kFunctionStateOffset), kFunctionStateBusMaster);
  Raise(1u << 4);
  ExpectCountStays(VectorOf(4), before);
  msix.SetEnabled(true);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kFunctionStateOffset),
            kFunctionStateBusMaster | kFunctionStateMsixEnabled);
  Raise(1u << 4);
  EXPECT_TRUE(Arrives(VectorOf(4), before + 1));
}

void CheckTable(const Msix& msix) {
  const uint64_t entry = msix.table() + 6 * 16;
  MmioWrite<uint64_t>(entry, 0x00000000fee00000);
  EXPECT_EQ(MmioRead<uint32_t>(entry), 0xfee00000u);
  EXPECT_EQ(MmioRead<uint64_t>(entry), 0xfee00000u);
  MmioWrite<uint64_t>(entry + 8, uint64_t{VectorOf(6)} | (uint64_t{1} << 32));
  EXPECT_EQ(MmioRead<uint32_t>(entry + 8), VectorOf(6));
  EXPECT_EQ(MmioRead<uint32_t>(entry + 12), 1u);
  msix.Route(6, 0, VectorOf(6));
  msix.SetMasked(6, false);
}

void CheckSecondCpu(const Msix& msix) {
  constexpr uint8_t kVector = kFirstVector + 0x21;
  static bool done = false;
  EXPECT_TRUE(StartOtherCpus(2, [](uint32_t) {
    SetInterruptsEnabled(true);
    WaitFor([] { return __atomic_load_n(&done, __ATOMIC_ACQUIRE); });
  }));
  msix.SetMasked(1, true);
  msix.Route(1, 1, kVector);
  msix.SetMasked(1, false);
  for (uint32_t i = 1; i <= 10; ++i) {
    Raise(1u << 1);
    EXPECT_TRUE(Arrives(kVector, i));
    EXPECT_EQ(LastInterruptedCpu(kVector), 1u);
  }
  __atomic_store_n(&done, true, __ATOMIC_RELEASE);
}

}  // namespace

void RunMsixTest() {
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  registers = rig.ReadBar(kRegisterBar).address;
  const Msix msix(rig);
  EXPECT_EQ(msix.vectors(), kMsixVectors);
  for (uint32_t entry = 0; entry < kMsixVectors; ++entry) {
    // Section 6.8.2.9: masked after reset.
    EXPECT_EQ(MmioRead<uint32_t>(msix.table() + 16 * entry + 12) & 1, 1u);
    msix.Route(entry, 0, VectorOf(entry));
    msix.SetMasked(entry, false);
  }
  msix.SetEnabled(true);
  SetInterruptsEnabled(true);

  CheckDelivery(msix);
  CheckMasked(msix, 3);
  CheckMasked(msix, 0);
  CheckFunctionMasked(msix);
  CheckReroutingWhilePending(msix);
  CheckDisabled(msix);
  CheckTable(msix);
  if (NumberOption("cpus", 1) >= 2) CheckSecondCpu(msix);
}

}  // namespace bulkhead::guest
