#ifndef BULKHEAD_BASE_PID_FD_H_
#define BULKHEAD_BASE_PID_FD_H_

#include <sys/types.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace bulkhead {

// Init of a PID namespace cannot end itself by signal N. It exits with this plus N instead, as
// shells do.
inline constexpr int kSignalExitCode = 128;

// How a child process ended.
struct ExitInfo {
  bool signalled = false;  // else it exited by itself
  int code = 0;            // the signal number or the exit code

  // "exit code 3", "killed by signal 9 (Killed)", "exit code 134 (as by signal 6, Aborted)".
  std::string ToString() const;
};

// A child of this process, by pidfd: free of the races that reused pids bring.
// Thread-compatible. The destructor neither kills nor waits.
class PidFd {
 public:
  // Errors: as pidfd_open(2).
  static absl::StatusOr<PidFd> Open(pid_t child);
  // Takes over a descriptor from clone3(CLONE_PIDFD).
  PidFd(UniqueFd fd, pid_t pid) : fd_(std::move(fd)), pid_(pid) {}

  // Readable (POLLIN) once the child is dead.
  int fd() const { return fd_.get(); }
  pid_t pid() const { return pid_; }

  // Sends a signal. Errors: NotFound once the child was reaped.
  absl::Status Signal(int signal) const;
  // Reaps the child. Errors: DeadlineExceeded (after `timeout` it still lives, or a tracer holds
  // it), FailedPrecondition (it was reaped already).
  absl::StatusOr<ExitInfo> Wait(absl::Duration timeout) const;

 private:
  UniqueFd fd_;
  pid_t pid_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_PID_FD_H_
