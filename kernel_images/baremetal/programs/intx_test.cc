// The interrupt line: level-triggered, asserted again until the device is quietened,
// and silent while MSI-X or the disable bit says so. Needs the rig.
// Options: gsi=N, the I/O APIC input of its line (default: 16 + slot % 8).

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
uint32_t interrupts_before_ack = 1;
bool keeps_in_service = false;

uint32_t Count() { return InterruptCount(kFirstVector); }

// At CPL0. Acknowledges the device at every `interrupts_before_ack`th interrupt only: until
// then the line must come again.
void OnLine() {
  constexpr uint64_t kInService = kLocalApic + 0x100;
  constexpr uint64_t kWord = kInService + kFirstVector / 32 * 0x10;
  keeps_in_service = (MmioRead<uint32_t>(kWord) >> (kFirstVector % 32) & 1) != 0;
  static uint32_t unacknowledged = 0;
  if (++unacknowledged < interrupts_before_ack) return;
  unacknowledged = 0;
  MmioWrite<uint32_t>(registers + kInterruptAckOffset, kInterruptCauses);
  // The write is posted: the end-of-interrupt must not overtake it.
  MmioRead<uint32_t>(registers + kInterruptStatusOffset);
}

void Raise() { MmioWrite<uint32_t>(registers + kInterruptRaiseOffset, 1); }

void ExpectQuietAt(uint32_t count) {
  Delay(kShortWaitCycles);
  EXPECT_EQ(Count(), count);
}

// Waits for `more` interrupts after the first `before`, and then for silence. No more than that
// many come, unless this local APIC ends interrupts as it delivers them, as one KVM's does:
// then the line is asserted again before the handler could acknowledge the device.
// Returns the count.
uint32_t ExpectInterrupts(uint32_t before, uint32_t more) {
  EXPECT_TRUE(WaitFor([=] { return Count() - before >= more; }));
  uint32_t count;
  do {
    count = Count();
    Delay(kShortWaitCycles);
  } while (Count() != count);
  EXPECT_EQ(MmioRead<uint32_t>(registers + kInterruptStatusOffset), 0u);
  if (keeps_in_service) EXPECT_EQ(count, before + more);
  return count;
}

}  // namespace

void RunIntxTest() {
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  registers = rig.ReadBar(kRegisterBar).address;
  rig.SetCommandBits(kCommandMemory | kCommandBusMaster);
  const auto gsi = static_cast<uint32_t>(NumberOption("gsi", 16u + rig.device() % 8));
  SetInterruptHandler(kFirstVector, OnLine);
  RouteLevelInterrupt(gsi, 0, kFirstVector);
  SetInterruptsEnabled(true);
  ExpectQuietAt(0);

  uint32_t count = 0;
  for (int i = 0; i < 10; ++i) {
    Raise();
    count = ExpectInterrupts(count, 1);
  }
  Print(keeps_in_service ? "" : "this local APIC ends interrupts early: extra ones are let pass\n");

  // Unacknowledged four times: the end of the interrupt brings the next one.
  interrupts_before_ack = 5;
  Raise();
  EXPECT_TRUE(WaitFor([=] { return Count() - count >= 5; }));
  interrupts_before_ack = 1;
  count = ExpectInterrupts(count, 5);

  // Held back at the I/O APIC, it comes when unmasked.
  MaskInterrupt(gsi);
  Raise();
  ExpectQuietAt(count);
  RouteLevelInterrupt(gsi, 0, kFirstVector);
  count = ExpectInterrupts(count, 1);

  // The disable bit silences the line; clearing it lets what waits through.
  rig.SetCommandBits(kCommandIntxDisable);
  Raise();
  ExpectQuietAt(count);
  rig.ClearCommandBits(kCommandIntxDisable);
  count = ExpectInterrupts(count, 1);

  // With MSI-X enabled the function has no line.
  const Msix msix(rig);
  msix.SetEnabled(true);
  Raise();
  ExpectQuietAt(count);
  MmioWrite<uint32_t>(registers + kInterruptAckOffset, kInterruptCauses);
  msix.SetEnabled(false);
  ExpectQuietAt(count);
  // A level that is still up when MSI-X goes off asserts the line.
  msix.SetEnabled(true);
  Raise();
  ExpectQuietAt(count);
  msix.SetEnabled(false);
  ExpectInterrupts(count, 1);
}

}  // namespace bulkhead::guest
