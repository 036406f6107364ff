#ifndef BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_
#define BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_

#include <stdint.h>

#include "absl/time/time.h"

namespace bulkhead::channel {

// Pauses for an instant, in a loop that polls shared memory.
inline void PollPause() { __builtin_ia32_pause(); }

// Decides how long one end polls before it sleeps. Polling pays if the other end answers sooner
// than a sleep and a wake-up take. Else it is waste, and may even keep the other end from running,
// if that one waits for this CPU. So each end keeps the success rate of its recent polls (each new
// poll weighs an eighth), and polls while at least half succeed. Below that it polls on trial only:
// after 16 waits, then after twice as many each time, up to 512. So polling that cannot succeed
// costs `max_poll` / 512 a wait, and a change is noticed within 512 waits.
//
// Counts iterations, so that polling reads no clock. Thread-compatible.
class AdaptivePoll {
 public:
  // Zero: never polls. At most 10 ms.
  explicit AdaptivePoll(absl::Duration max_poll);

  // How often to look before the next sleep, with a PollPause() after each look. May be 0; if not,
  // call Record() with the outcome.
  uint32_t NextIterations() {
    if (success_ >= kWorthwhile) return iterations_;
    if (++skipped_ < interval_) return 0;
    skipped_ = 0;
    return iterations_;
  }

  void Record(bool success) {
    if (success) {
      success_ += (kAlways - success_) / kWeight;
      // After a trial that succeeded, polls follow: more than one decides.
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
