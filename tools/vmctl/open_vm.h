#ifndef BULKHEAD_TOOLS_VMCTL_OPEN_VM_H_
#define BULKHEAD_TOOLS_VMCTL_OPEN_VM_H_

#include <memory>

#include "tools/vmctl/command.h"
#include "tools/vmctl/vm_client.h"

namespace bulkhead::vmctl {

// The VM that is meant, connected. Null: it said why, and `code` is what to end with.
std::unique_ptr<VmClient> OpenVm(const Invocation& invocation, ExitCode& code);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_OPEN_VM_H_
