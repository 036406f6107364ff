#ifndef BULKHEAD_BASE_EVENT_FD_H_
#define BULKHEAD_BASE_EVENT_FD_H_

#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead {

// An eventfd(2): a counter that wakes the threads that poll it. Non-blocking and close-on-exec.
// Thread-safe.
class EventFd {
 public:
  static absl::StatusOr<EventFd> Create();
  // Takes over a descriptor received from another process. It need not be an eventfd: on anything
  // else Signal() and Drain() do no harm to this process.
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}

  // Adds one. Does not block: a full counter already wakes every reader. Do not call it if an
  // untrusted process has the descriptor: it can clear O_NONBLOCK and fill the counter, and then
  // this blocks.
  void Signal() const;
  // Resets the counter. False: it was zero. Never blocks, even if an untrusted process has the
  // descriptor.
  bool Drain() const;
  // True if the counter is not zero. Does not change it.
  bool IsPending() const;

  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

// EventFd::Drain() and IsPending() for a descriptor that the caller does not own.
bool DrainEventFd(int fd);
bool IsEventFdPending(int fd);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_EVENT_FD_H_
