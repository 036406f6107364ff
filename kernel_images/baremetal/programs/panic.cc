// Reports crashes through pvpanic, first that of a kernel whose crash kernel takes over. Needs
// pvpanic.
// Options:
//   by_key=1   waits for a key first (0)
//   panics=N   how often it says that it has crashed (1)
//   resets=1   asks for a reset at once, instead of running on (0)

#include "devices/pvpanic/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/pci.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/lib/uart.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

using namespace devices::pvpanic;

void RunPanic() {
  const PciFunction function = FindFunction(kVendorId, kDeviceId);
  const uint64_t events = function.ReadBar(kBar).address + kEventsOffset;
  function.SetCommandBits(kCommandMemory);
  EXPECT_EQ(MmioRead<uint8_t>(events), kEvents);
  Print("boots\n");
  if (NumberOption("by_key", 0) != 0) {
    uart::AllowInput();
    while (!uart::HasInput()) Pause();
  }
  MmioWrite<uint8_t>(events, kCrashLoaded);
  for (uint64_t i = NumberOption("panics", 1); i > 0; --i) MmioWrite<uint8_t>(events, kPanicked);
  if (NumberOption("resets", 0) != 0) ResetMachine();
  EXPECT_EQ(MmioRead<uint8_t>(events), kEvents);
  for (uint64_t tick = 1;; ++tick) {
    Print("runs on ", tick, "\n");
    Delay(kShortWaitCycles);
  }
}

}  // namespace bulkhead::guest
