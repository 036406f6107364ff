#include "base/taken_signals.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "base/errno_status.h"

namespace bulkhead {

void ResetInheritedSignals() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGCHLD,
         SIG_DFL);  // if it is ignored, the kernel reaps children and their exit codes are lost
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}

absl::StatusOr<UniqueFd> TakeSignals(std::initializer_list<int> signals) {
  sigset_t taken;
  sigemptyset(&taken);
  for (const int number : signals) {
    struct sigaction now;
    if (sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_IGN) continue;
    sigaddset(&taken, number);
  }
  sigprocmask(SIG_BLOCK, &taken, nullptr);
  UniqueFd fd(signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.ok()) return ErrnoToStatus(errno, "signalfd");
  return fd;
}

}  // namespace bulkhead
