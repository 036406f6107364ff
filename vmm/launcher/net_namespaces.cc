#include "vmm/launcher/net_namespaces.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace bulkhead::vmm {

bool NetNamespaces::Prepare(size_t count) {
  return count_ < std::min(count, kMaxKept) && unshare(CLONE_NEWNET) == 0 && Keep();
}

bool NetNamespaces::Enter(bool reuse) {
  entered_ = kMaxKept;
  if (reuse) {
    pollfd processes[kMaxKept];
    for (size_t i = 0; i < count_; ++i) {
      processes[i] = {.fd = processes_[i], .events = POLLIN, .revents = 0};
    }
    if (poll(processes, count_, 0) < 0) return false;
    for (size_t i = 0; i < count_; ++i) {
      if (processes_[i] >= 0 && processes[i].revents == 0) continue;
      entered_ = i;
      return setns(namespaces_[i], CLONE_NEWNET) == 0;
    }
  }
  if (unshare(CLONE_NEWNET) != 0) return false;
  if (reuse && Keep()) entered_ = count_ - 1;
  return true;
}

bool NetNamespaces::Keep() {
  if (count_ == kMaxKept) return false;
  const int made = openat(proc_, "self/ns/net", O_RDONLY | O_CLOEXEC);
  if (made < 0) return false;
  namespaces_[count_] = made;
  processes_[count_++] = -1;
  return true;
}

void NetNamespaces::SetProcess(int pid_fd) {
  if (entered_ != kMaxKept) std::swap(processes_[entered_], pid_fd);
  entered_ = kMaxKept;
  if (pid_fd >= 0) close(pid_fd);
}

}  // namespace bulkhead::vmm
