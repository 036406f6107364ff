#ifndef BULKHEAD_INTEGRATION_HARNESS_VM_PROCESS_H_
#define BULKHEAD_INTEGRATION_HARNESS_VM_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "base/testing/child_process.h"
#include "base/testing/processes.h"

namespace bulkhead::integration {

// The path of a file among the test's data: "vmm/vmm", or "external/REPOSITORY/PATH".
std::string DataFile(absl::string_view path);

// Runs `vmm` as a user would: its standard input, output and error are pipes of the test.
// Every wait has a deadline. Single-threaded. The destructor kills the vmm if it still runs.
class VmProcess {
 public:
  // Starts `vmm` with these flags. Errors: as of ChildProcess. With `shell`, a shell
  // executes these commands before it becomes the vmm: "ulimit -n 100", "exec 2>&-".
  static absl::StatusOr<std::unique_ptr<VmProcess>> Start(const std::vector<std::string>& flags,
                                                          const std::string& shell = "");

  // As of ChildProcess: for the guest's output, and for the log of the vmm and its devices.
  absl::StatusOr<std::string> WaitForOutput(absl::string_view text, absl::Duration timeout) {
    return process_->WaitForOutput(text, timeout);
  }
  absl::StatusOr<std::string> WaitForLog(absl::string_view text, absl::Duration timeout) {
    return process_->WaitForError(text, timeout);
  }
  const std::string& output() const { return process_->output(); }
  const std::string& log() const { return process_->error(); }
  // Types into the guest's console.
  absl::Status Type(absl::string_view text) { return process_->Write(text); }
  absl::Status Signal(int signal) const { return process_->Signal(signal); }
  absl::StatusOr<ExitInfo> WaitForExit(absl::Duration timeout) {
    return process_->WaitForExit(timeout);
  }
  pid_t pid() const { return process_->pid(); }

  // The device processes that live now, from /proc: name (argv[0]'s last part) and pid.
  struct Child {
    std::string name;
    pid_t pid;
  };
  std::vector<Child> Children() const;
  // The pid of the first one of that name, or kNoProcess.
  pid_t PidOf(absl::string_view name) const;
  // The same of the vmm's helpers: "vmm-launcher", "vmm-init" and so on, and of side processes.
  pid_t HelperPid(absl::string_view name) const;

 private:
  explicit VmProcess(std::unique_ptr<ChildProcess> process) : process_(std::move(process)) {}

  const std::unique_ptr<ChildProcess> process_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_HARNESS_VM_PROCESS_H_
