// Says so and does nothing, until the VM is ended from outside.
// Options: halt=1: its CPU halts, interrupts off, instead of spinning.

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

void RunIdle() {
  Print("idle\n");
  if (NumberOption("halt", 0, 0, 1) != 0) Park();
  while (true) Pause();
}

}  // namespace bulkhead::guest
