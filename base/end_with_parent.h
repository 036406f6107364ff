#ifndef BULKHEAD_BASE_END_WITH_PARENT_H_
#define BULKHEAD_BASE_END_WITH_PARENT_H_

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace bulkhead {

// For a process that forks others, which must not outlive it:
//
//   const UniqueFd self = OwnPidFd();
//   if (fork() == 0) {
//     EndWithParent(self.get());
//
// Empty: errno, as pidfd_open(2).
inline UniqueFd OwnPidFd() {
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
}

// The kernel kills this process when the thread that has forked it ends. If the parent, of which
// `parent` is a pidfd, is dead already, this process ends here. Call it first in the new process,
// and PR_SET_PDEATHSIG again after a change of the user or group, which undoes it. Unlike
// getppid(2), a pidfd also tells in another PID namespace, and of a parent that was dead before.
inline void EndWithParent(int parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd dead = {.fd = parent, .events = POLLIN, .revents = 0};
  if (poll(&dead, 1, 0) != 0) _exit(1);
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_END_WITH_PARENT_H_
