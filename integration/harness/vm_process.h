#ifndef BULKHEAD_INTEGRATION_HARNESS_VM_PROCESS_H_
#define BULKHEAD_INTEGRATION_HARNESS_VM_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "base/testing/no_process.h"
#include "base/unique_fd.h"

namespace bulkhead::integration {

// The path of a file among the test's data: "vmm/vmm", or "external/REPOSITORY/PATH".
std::string DataFile(absl::string_view path);

// Runs `vmm` as a user would: its standard input, output and error are pipes of the test.
// Every wait has a deadline. Single-threaded. The destructor kills what still runs.
class VmProcess {
 public:
  // Starts `vmm` with these flags. Errors: as pipe(2) and posix_spawn(3). With `shell`, a shell
  // executes these commands before it becomes the vmm: "ulimit -n 100", "exec 2>&-".
  static absl::StatusOr<std::unique_ptr<VmProcess>> Start(const std::vector<std::string>& flags,
                                                          const std::string& shell = "");
  ~VmProcess();

  // Waits until the guest's output, beyond what earlier calls have consumed, holds `text`;
  // returns what came before it. Errors: DeadlineExceeded, Aborted (the vmm ended first), both
  // with the end of the output.
  absl::StatusOr<std::string> WaitForOutput(absl::string_view text, absl::Duration timeout);
  // The same of what the vmm and its devices log.
  absl::StatusOr<std::string> WaitForLog(absl::string_view text, absl::Duration timeout);

  // Types into the guest's console.
  absl::Status Type(absl::string_view text);

  // Waits for the end. Errors: DeadlineExceeded.
  absl::StatusOr<ExitInfo> WaitForExit(absl::Duration timeout);

  pid_t pid() const { return process_.pid(); }
  // The device processes that live now, from /proc: name (argv[0]'s last part) and pid.
  struct Child {
    std::string name;
    pid_t pid;
  };
  std::vector<Child> Children() const;
  // One of that name, or kNoProcess.
  pid_t PidOf(absl::string_view name) const;
  absl::Status Signal(int signal) const { return process_.Signal(signal); }

  // All that came so far.
  const std::string& output() const { return output_.text; }
  const std::string& log() const { return log_.text; }

 private:
  struct Stream {
    UniqueFd fd;
    std::string text;
    size_t consumed = 0;
  };

  explicit VmProcess(PidFd process) : process_(std::move(process)) {}
  // Reads whatever both streams have, waiting at most until `deadline`. False: both ended.
  bool ReadSome(absl::Time deadline);
  absl::StatusOr<std::string> WaitFor(Stream& stream, absl::string_view text,
                                      absl::Duration timeout);

  PidFd process_;
  bool reaped_ = false;
  UniqueFd input_;
  Stream output_;
  Stream log_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_HARNESS_VM_PROCESS_H_
