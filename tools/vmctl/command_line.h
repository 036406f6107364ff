#ifndef BULKHEAD_TOOLS_VMCTL_COMMAND_LINE_H_
#define BULKHEAD_TOOLS_VMCTL_COMMAND_LINE_H_

#include "absl/status/statusor.h"
#include "tools/vmctl/command.h"

namespace bulkhead::vmctl {

// vmctl [FLAG...] COMMAND [ARGUMENT] [FLAG...]: the flags that choose a VM may stand before the
// command too. Errors: InvalidArgument: one line that says what would be right.
absl::StatusOr<Invocation> ParseCommandLine(int argc, char** argv);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_COMMAND_LINE_H_
