#ifndef BULKHEAD_VMM_CONFIG_CONSOLE_FLAG_H_
#define BULKHEAD_VMM_CONFIG_CONSOLE_FLAG_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/config/command_line.h"

namespace bulkhead::vmm {

// Adds the serial port that the value of --console describes, if it does. Errors: InvalidArgument,
// for people.
absl::Status ParseConsole(absl::string_view text, CommandLine& line);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_CONSOLE_FLAG_H_
