#ifndef BULKHEAD_VMM_LAUNCHER_CONFINED_CHILD_H_
#define BULKHEAD_VMM_LAUNCHER_CONFINED_CHILD_H_

#include <linux/filter.h>
#include <stddef.h>

#include "vmm/launcher/launch_message.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {

// A process to be, in the launcher's memory.
struct ConfinedChild {
  LaunchRequest request;
  const sock_filter* filter = nullptr;  // of request.filter_instructions
  char** argv = nullptr;
  char** envp = nullptr;
  const int* descriptors = nullptr;  // of request.descriptors
  int binary = -1;
  int status = -1;  // the launch's status socket
  int go = -1;      // readable once the launcher has mapped the user; end of file: it could not
};

// Runs in a new process, a copy of the launcher in its new namespaces: puts on the rest of the
// sandbox, reports, and executes the program. Makes system calls only. Reports the call that
// failed.
[[noreturn]] void RunConfinedChild(const ConfinedChild& child);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LAUNCHER_CONFINED_CHILD_H_
