// The interrupt line: level-triggered, asserted again while nobody has quietened the device,
// and silent while MSI-X or the disable bit says so. Needs the example device.
// Options: gsi=N, the I/O APIC input of its line (default: 16 + slot % 8).

#include "devices/example/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::example;

uint64_t registers;
uint32_t interrupts_before_ack = 0;

uint32_t Count() { return InterruptCount(kFirstVector); }

// At CPL0. Acknowledges the device at every `interrupts_before_ack`th interrupt only: until
// then the line must come again.
void OnLine() {
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

}  // namespace

void RunIntxTest() {
  const PciFunction example = FindFunction(kVendorId, kDeviceId);
  registers = example.ReadBar(kRegisterBar).address;
  example.SetCommandBits(kCommandMemory | kCommandBusMaster);
  const auto gsi = static_cast<uint32_t>(NumberOption("gsi", 16u + example.device() % 8));
  SetInterruptHandler(kFirstVector, OnLine);
  RouteLevelInterrupt(gsi, 0, kFirstVector);
  SetInterruptsEnabled(true);
  ExpectQuietAt(0);

  interrupts_before_ack = 1;
  for (uint32_t i = 1; i <= 10; ++i) {
    Raise();
    EXPECT_TRUE(WaitFor([=] { return Count() == i; }));
    EXPECT_EQ(MmioRead<uint32_t>(registers + kInterruptStatusOffset), 0u);
  }
  ExpectQuietAt(10);

  // Unacknowledged four times: the end of the interrupt brings the next one.
  interrupts_before_ack = 5;
  Raise();
  EXPECT_TRUE(WaitFor([] { return Count() == 15; }));
  ExpectQuietAt(15);

  // Held back at the I/O APIC, it comes when unmasked.
  interrupts_before_ack = 1;
  MaskInterrupt(gsi);
  Raise();
  ExpectQuietAt(15);
  RouteLevelInterrupt(gsi, 0, kFirstVector);
  EXPECT_TRUE(WaitFor([] { return Count() == 16; }));

  // The disable bit silences the line; clearing it lets what waits through.
  example.SetCommandBits(kCommandIntxDisable);
  Raise();
  ExpectQuietAt(16);
  example.ClearCommandBits(kCommandIntxDisable);
  EXPECT_TRUE(WaitFor([] { return Count() == 17; }));

  // With MSI-X enabled the function has no line.
  const Msix msix(example);
  msix.SetEnabled(true);
  Raise();
  ExpectQuietAt(17);
  MmioWrite<uint32_t>(registers + kInterruptAckOffset, kInterruptCauses);
  msix.SetEnabled(false);
  ExpectQuietAt(17);
  Raise();
  EXPECT_TRUE(WaitFor([] { return Count() == 18; }));
}

}  // namespace bulkhead::guest
