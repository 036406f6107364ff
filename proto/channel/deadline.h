#ifndef BULKHEAD_PROTO_CHANNEL_DEADLINE_H_
#define BULKHEAD_PROTO_CHANNEL_DEADLINE_H_

#include <chrono>

#include "absl/time/time.h"

namespace bulkhead::channel {

// A time limit that starts at the first call of a method: a wait that ends while it polls reads no
// clock. Uses the steady clock. Thread-compatible.
class LazyDeadline {
 public:
  explicit LazyDeadline(absl::Duration timeout) : timeout_(timeout) {}

  // The time since the first call.
  absl::Duration Elapsed() {
    const auto now = std::chrono::steady_clock::now();
    if (!running_) {
      running_ = true;
      start_ = now;
    }
    return absl::FromChrono(now - start_);
  }
  // Call it after a sleep of `asked` that began at Elapsed() == `before`. If the sleep took much
  // longer, this process could not run (stopped, suspended): that time does not count.
  void AfterSleep(absl::Duration before, absl::Duration asked) {
    constexpr absl::Duration kTolerance = absl::Seconds(1);
    const absl::Duration late = Elapsed() - before - asked;
    if (late > kTolerance) start_ += absl::ToChronoNanoseconds(late);
  }
  // The time that is left, at least zero.
  absl::Duration Remaining() {
    const absl::Duration left = timeout_ - Elapsed();
    return left > absl::ZeroDuration() ? left : absl::ZeroDuration();
  }

 private:
  const absl::Duration timeout_;
  bool running_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_DEADLINE_H_
