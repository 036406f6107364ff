#ifndef BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_
#define BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_

#include <stdint.h>

#include "absl/time/time.h"

namespace bulkhead::channel {

// Pauses for an instant, in a loop that polls shared memory.
inline void PollPause() { __builtin_ia32_pause(); }

// Decides how long one end polls before it sleeps. Polling pays when the other end answers
// sooner than a sleep and a wake-up would take; it is waste, and keeps the other end from
// running where CPUs are scarce, when that one is slow, idle or waiting for this very CPU. So
// each end keeps the success rate of its own last polls (each new one weighs an eighth) and
// polls while more than about every other one succeeds. Otherwise it only tries, now and then,
// whether that has changed: after 16 waits, then after twice as many each time, up to 512. Polling
// that cannot succeed thus costs `max_poll` / 512 a wait, and a change is noticed within 512 waits.
//
// Counts iterations, so that polling reads no clock. Thread-compatible.
class AdaptivePoll {
 public:
  // Zero: never polls. At most 10 ms.
  explicit AdaptivePoll(absl::Duration max_poll);

  // How many times to look, with a PollPause() between, before the next sleep. May be 0.
  // Tell the outcome by Record() if it is not.
  uint32_t NextIterations() {
    if (success_ >= kWorthwhile) return iterations_;
    if (++skipped_ < interval_) return 0;
    skipped_ = 0;
    return iterations_;
  }

  void Record(bool success) {
    if (success) {
      success_ += (kAlways - success_) / kWeight;
      // A try that succeeded is followed by polls, so that more than it alone decides.
      if (success_ < kWorthwhile) success_ = kWorthwhile;
      interval_ = kMinInterval;
    } else {
      if (success_ < kWorthwhile && interval_ < kMaxInterval) interval_ *= 2;
      success_ -= success_ / kWeight;
    }
  }

 private:
  static constexpr uint32_t kAlways = 1 << 16;  // success rate 1, fixed point
  static constexpr uint32_t kWorthwhile = kAlways / 2;
  static constexpr uint32_t kWeight = 8;
  static constexpr uint32_t kMinInterval = 16;
  static constexpr uint32_t kMaxInterval = 512;

  uint32_t iterations_;
  uint32_t success_ = kAlways;
  uint32_t skipped_ = 0;
  uint32_t interval_ = kMinInterval;  // waits from one try to the next
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_
