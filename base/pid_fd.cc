#include "base/pid_fd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead {
namespace {

constexpr absl::Duration kTracerRetryInterval = absl::Milliseconds(10);

}  // namespace

std::string ExitInfo::ToString() const {
  if (!signalled && code > kSignalExitCode && code < kSignalExitCode + NSIG) {
    const int signal = code - kSignalExitCode;
    return absl::StrCat("exit code ", code, " (as by signal ", signal, ", ", strsignal(signal),
                        ")");
  }
  if (!signalled) return absl::StrCat("exit code ", code);
  return absl::StrCat("killed by signal ", code, " (", strsignal(code), ")");
}

absl::StatusOr<PidFd> PidFd::Open(pid_t child) {
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  if (!fd.ok()) return ErrnoToStatus(errno, "pidfd_open");
  return PidFd(std::move(fd), child);
}

absl::Status PidFd::Signal(int signal) const {
  if (syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, 0) != 0) {
    return ErrnoToStatus(errno, "pidfd_send_signal");
  }
  return absl::OkStatus();
}

absl::StatusOr<ExitInfo> PidFd::Wait(absl::Duration timeout) const {
  const absl::Time deadline = SteadyNow() + timeout;
  while (true) {
    const timespec limit = absl::ToTimespec(std::max(deadline - SteadyNow(), absl::ZeroDuration()));
    pollfd p = {.fd = fd_.get(), .events = POLLIN, .revents = 0};
    const int n = ppoll(&p, 1, &limit, nullptr);
    if (n == 0) return absl::DeadlineExceededError(absl::StrCat("process ", pid_, " still lives"));
    if (n > 0) break;
    if (errno != EINTR) return ErrnoToStatus(errno, "ppoll of a pidfd");
  }
  while (true) {
    siginfo_t info = {};
    if (waitid(P_PIDFD, static_cast<id_t>(fd_.get()), &info, WEXITED | WNOHANG) != 0) {
      return ErrnoToStatus(errno, "waitid");
    }
    if (info.si_pid != 0) {
      return ExitInfo{.signalled = info.si_code != CLD_EXITED, .code = info.si_status};
    }
    // A debugger traces it, and the kernel notifies that one first: without WNOHANG this would wait
    // for the debugger.
    if (SteadyNow() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("process ", pid_, " is dead, but held by a process that traces it"));
    }
    absl::SleepFor(std::min(kTracerRetryInterval, deadline - SteadyNow()));
  }
}

}  // namespace bulkhead
