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
// after 16 waits, and 64 times `max_poll` after the last trial. So polling that cannot succeed
// takes at most a 65th of a CPU, one that is idle but for heartbeats hardly polls, and a change is
// noticed within milliseconds.
//
// Counts iterations, so that polling reads no clock. Thread-compatible.
class AdaptivePoll {
 public:
  using Clock = int64_t();  // nanoseconds
  static int64_t SteadyClock();

  // Zero: never polls. At most 10 ms.
  explicit AdaptivePoll(absl::Duration max_poll, Clock* clock = SteadyClock);

  // How often to look before the next sleep, with a PollPause() after each look. May be 0; if not,
  // call Record() with the outcome.
  uint32_t NextIterations() {
    if (success_ >= kWorthwhile) return iterations_;
    if (++waits_ < kTrialWaits || clock_() < next_trial_) return 0;
    waits_ = 0;
    return iterations_;
  }

  void Record(bool success) {
    if (success) {
      success_ += (kAlways - success_) / kWeight;
      // After a trial that succeeded, polls follow: more than one decides.
      if (success_ < kWorthwhile) success_ = kWorthwhile;
    } else {
      success_ -= success_ / kWeight;
      if (success_ < kWorthwhile) next_trial_ = clock_() + trial_interval_;
    }
  }

 private:
  static constexpr uint32_t kAlways = 1 << 16;  // success rate 1, fixed point
  static constexpr uint32_t kWorthwhile = kAlways / 2;
  static constexpr uint32_t kWeight = 8;
  static constexpr uint32_t kTrialWaits = 16;
  static constexpr int64_t kTrialInterval = 64;  // times `max_poll`

  uint32_t iterations_;
  int64_t trial_interval_;
  Clock* clock_;
  uint32_t success_ = kAlways;
  uint32_t waits_ = 0;      // since the last trial
  int64_t next_trial_ = 0;  // not before
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_ADAPTIVE_POLL_H_
