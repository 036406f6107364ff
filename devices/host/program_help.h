#ifndef BULKHEAD_DEVICES_HOST_PROGRAM_HELP_H_
#define BULKHEAD_DEVICES_HOST_PROGRAM_HELP_H_

#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead::devices {

// True if the command line asks for help: "--help", "-help" or "-h" before any "--".
bool AsksForHelp(int argc, char** argv);

// True if it asks for the version, likewise.
bool AsksForVersion(int argc, char** argv);

// The text of `--help` of a device program: `introduction`, how to start it, and its own flags
// (those declared in devices/) with their defaults. `program`: argv[0].
std::string ProgramHelp(absl::string_view program, absl::string_view introduction);

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_PROGRAM_HELP_H_
