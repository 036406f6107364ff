#ifndef BULKHEAD_BASE_EVENT_FD_H_
#define BULKHEAD_BASE_EVENT_FD_H_

#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead {

// An eventfd(2): a counter that wakes whoever polls it. Non-blocking and close-on-exec.
// Thread-safe.
class EventFd {
 public:
  static absl::StatusOr<EventFd> Create();
  // Takes over a descriptor received from another process. It is not trusted to be an
  // eventfd: Signal() and Drain() on anything else have no effect that matters here.
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}

  // Adds one. Does not block: a full counter already wakes every reader. But another process
  // that has the descriptor could clear O_NONBLOCK and fill the counter: do not signal what an
  // untrusted process holds.
  void Signal() const;
  // Takes the count and resets it. False if there was nothing to take. Never blocks, whoever
  // else holds the descriptor.
  bool Drain() const;
  // True if the counter is not zero. Takes nothing.
  bool IsPending() const;

  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

// As EventFd::Drain() and IsPending(), of a descriptor that belongs to somebody else.
bool DrainEventFd(int fd);
bool IsEventFdPending(int fd);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_EVENT_FD_H_
