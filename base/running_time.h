#ifndef BULKHEAD_BASE_RUNNING_TIME_H_
#define BULKHEAD_BASE_RUNNING_TIME_H_

#include <algorithm>

#include "absl/time/time.h"

namespace bulkhead {

// Measures time, without the time in which this process could not run: stopped by SIGSTOP or a
// cgroup freezer, on a suspended laptop, or starved by a busy host. The owner calls Advance() about
// every `step`; a longer gap counts as two steps. So a time limit passes only while this process
// can use it. Thread-compatible.
class RunningTime {
 public:
  // `now`: SteadyNow().
  RunningTime(absl::Duration step, absl::Time now) : step_(step), last_(now) {}

  absl::Duration step() const { return step_; }
  // Returns the time that has passed.
  absl::Duration Advance(absl::Time now) {
    passed_ += std::clamp(now - last_, absl::ZeroDuration(), 2 * step_);
    last_ = now;
    return passed_;
  }

 private:
  absl::Duration step_;
  absl::Time last_;
  absl::Duration passed_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_RUNNING_TIME_H_
