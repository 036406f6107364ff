#ifndef BULKHEAD_PROTO_CHANNEL_DEADLINE_H_
#define BULKHEAD_PROTO_CHANNEL_DEADLINE_H_

#include <chrono>

#include "absl/time/time.h"

namespace bulkhead::channel {

// A time limit that starts to run when it is first asked for: a wait that ends while polling
// reads no clock. Monotonic. Thread-compatible.
class LazyDeadline {
 public:
  explicit LazyDeadline(absl::Duration timeout) : timeout_(timeout) {}

  // What is left; never below zero.
  absl::Duration Remaining() {
    const auto now = std::chrono::steady_clock::now();
    if (!running_) {
      running_ = true;
      start_ = now;
    }
    const absl::Duration left = timeout_ - absl::FromChrono(now - start_);
    return left > absl::ZeroDuration() ? left : absl::ZeroDuration();
  }

 private:
  const absl::Duration timeout_;
  bool running_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_DEADLINE_H_
