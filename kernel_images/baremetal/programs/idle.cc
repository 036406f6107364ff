// Says so and does nothing, until the VM is ended from outside.

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {

void RunIdle() {
  Print("idle\n");
  while (true) Pause();
}

}  // namespace bulkhead::guest
