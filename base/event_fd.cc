#include "base/event_fd.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "base/errno_status.h"

namespace bulkhead {

absl::StatusOr<EventFd> EventFd::Create() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.ok()) return ErrnoToStatus(errno, "eventfd");
  return EventFd(std::move(fd));
}

void EventFd::Signal() const {
  const uint64_t one = 1;
  // EAGAIN means that the counter is at its maximum: its reader is being woken anyway.
  while (write(fd_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

bool EventFd::Drain() const { return DrainEventFd(fd_.get()); }

bool DrainEventFd(int fd) {
  uint64_t count = 0;
  const iovec buffer = {.iov_base = &count, .iov_len = sizeof(count)};
  ssize_t n;
  do {
    // O_NONBLOCK is shared with every process that has the eventfd, and one may clear it.
    n = preadv2(fd, &buffer, 1, /*offset=*/-1, RWF_NOWAIT);
  } while (n < 0 && errno == EINTR);
  return n == sizeof(count);
}

bool EventFd::IsPending() const { return IsEventFdPending(fd_.get()); }

bool IsEventFdPending(int fd) {
  pollfd p = {.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&p, 1, 0) == 1 && (p.revents & POLLIN) != 0;
}

}  // namespace bulkhead
