// Prints a line every few milliseconds, for as long as the VM runs: an observer sees when it
// does not.

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

void RunTicker() {
  for (uint64_t tick = 1;; ++tick) {
    Print("tick ", tick, "\n");
    Delay(kShortWaitCycles / 2);
  }
}

}  // namespace bulkhead::guest
