// vmctl: operates a running VM over its control socket (proto/vm_control.proto). See --help.

#include <string.h>

#include "base/standard_descriptors.h"
#include "proto/version.h"
#include "tools/vmctl/command_line.h"
#include "tools/vmctl/completion.h"
#include "tools/vmctl/help.h"
#include "tools/vmctl/standard_output.h"

namespace bulkhead::vmctl {
namespace {

int Run(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], kCompleteCommand) == 0) return RunComplete(argc, argv);
  if (argc == 2 && strcmp(argv[1], "--version") == 0) return Print(VersionLine("vmctl"));
  const absl::StatusOr<Invocation> invocation = ParseCommandLine(argc, argv);
  if (!invocation.ok()) return Fail(kUsage, invocation.status().message());
  const Command* command = invocation->command;
  if (command == nullptr) return Print(GeneralHelp());
  return invocation->help ? Print(CommandHelp(*command)) : command->run(*invocation);
}

}  // namespace
}  // namespace bulkhead::vmctl

int main(int argc, char** argv) {
  bulkhead::OpenStandardDescriptors();
  return bulkhead::vmctl::Run(argc, argv);
}
