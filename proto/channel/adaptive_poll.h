#ifndef BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_
#define BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_

#include <stdint.h>

#include "absl/time/time.h"

namespace bulkhead::channel {

// Pauses for an instant, in a loop that polls shared memory.
inline void PollPause() { __builtin_ia32_pause(); }

// Decides how long one end polls before it sleeps. Polling pays when the other end answers
// sooner than a sleep and a wake-up would take; it is waste, and keeps the other end from
// running where CPUs are scarce, when that one is slow, idle or waiting for this CPU. So each
// end keeps the success rate of its own last polls (each new one weighs an eighth), polls while
// at least one in four succeeds, and otherwise tries only every 16th time whether that changed:
// a poll that cannot succeed costs a sixteenth of `max_poll` a wait.
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
    if (++skipped_ < kProbeInterval) return 0;
    skipped_ = 0;
    return iterations_;
  }

  void Record(bool success) {
    if (success) {
      success_ += (kAlways - success_) / kWeight;
    } else {
      success_ -= success_ / kWeight;
    }
  }

 private:
  static constexpr uint32_t kAlways = 1 << 16;  // success rate 1, fixed point
  static constexpr uint32_t kWorthwhile = kAlways / 4;
  static constexpr uint32_t kWeight = 8;
  static constexpr uint32_t kProbeInterval = 16;

  uint32_t iterations_;
  uint32_t success_ = kAlways;
  uint32_t skipped_ = 0;
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_
