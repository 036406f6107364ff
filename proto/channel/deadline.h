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

  // What has passed since it was first asked for.
  absl::Duration Elapsed() {
    const auto now = std::chrono::steady_clock::now();
    if (!running_) {
      running_ = true;
      start_ = now;
    }
    return absl::FromChrono(now - start_);
  }
  // A sleep of `asked` that began at Elapsed() == `before` has just ended. If it ended much later,
  // this process could not run (stopped, suspended): that time is not part of the limit.
  void AfterSleep(absl::Duration before, absl::Duration asked) {
    constexpr absl::Duration kTolerance = absl::Seconds(1);
    const absl::Duration late = Elapsed() - before - asked;
    if (late > kTolerance) start_ += absl::ToChronoNanoseconds(late);
  }
  // What is left; never below zero.
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
