#ifndef BULKHEAD_VMM_CONFIG_COMMAND_LINE_H_
#define BULKHEAD_VMM_CONFIG_COMMAND_LINE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/validate.h"

namespace bulkhead::vmm {

// What the command line of `vmm` asks for.
struct CommandLine {
  // --help, --version or --help-config: print this and end. Nothing else is filled in then.
  std::string answer;
  bool check_only = false;  // see vmm/machine/check_vm.h
  bool verbose = false;
  std::string device_dir;  // empty: beside the vmm
  v1::VmConfig config;     // the configuration file with the flags laid over it
  FieldPlaces places;
};

// Reads the flags and the configuration file that they name. Errors: InvalidArgument, one line
// that names the flag (or file and line) and says what would be right.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, char** argv);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_COMMAND_LINE_H_
