#ifndef BULKHEAD_VMM_CONFIG_COMMAND_LINE_H_
#define BULKHEAD_VMM_CONFIG_COMMAND_LINE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/validate.h"

namespace bulkhead::vmm {

// The parsed command line of `vmm`.
struct CommandLine {
  // For --help, --help-config, --sandbox-policy and --version: print this and exit. Then nothing
  // else is set.
  std::string answer;
  bool check_only = false;  // see vmm/machine/check_vm.h
  bool verbose = false;
  std::string device_dir;  // empty: beside the vmm
  v1::VmConfig config;     // the configuration file, overridden by the flags
  FieldPlaces places;
};

// Reads the flags and the configuration file that they name. Errors: InvalidArgument, one line
// with the flag (or file and line), the value and what is accepted.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, char** argv);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_COMMAND_LINE_H_
