#ifndef BULKHEAD_TOOLS_VMCTL_HELP_H_
#define BULKHEAD_TOOLS_VMCTL_HELP_H_

#include <string>

#include "tools/vmctl/command.h"

namespace bulkhead::vmctl {

// `vmctl --help`.
std::string GeneralHelp();

// `vmctl COMMAND --help`.
std::string CommandHelp(const Command& command);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_HELP_H_
