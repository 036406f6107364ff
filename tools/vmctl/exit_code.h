#ifndef BULKHEAD_TOOLS_VMCTL_EXIT_CODE_H_
#define BULKHEAD_TOOLS_VMCTL_EXIT_CODE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmctl {

// The exit codes of vmctl. Scripts depend on the numbers; --help lists them.
enum ExitCode : int {
  kOk = 0,
  kRefused = 1,  // the VM refused, or the call failed
  kUsage = 2,    // wrong command line, or several VMs run and none is named
  kNoVm = 3,     // no such VM runs, or it cannot be reached
  kNoSuchDevice = 4,
  kTimedOut = 5,  // no answer within --timeout; the command may still take effect
};

// "vmctl: error: TEXT" on standard error; returns `code`.
ExitCode Fail(ExitCode code, absl::string_view text);

// Prints why a call to a VM failed, from a status of VmClient. Returns the code for it.
ExitCode FailedCall(const absl::Status& status);

// "vmctl: TEXT" on standard error. Not an error.
void Note(absl::string_view text);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_EXIT_CODE_H_
