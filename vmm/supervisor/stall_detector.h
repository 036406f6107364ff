#ifndef BULKHEAD_VMM_SUPERVISOR_STALL_DETECTOR_H_
#define BULKHEAD_VMM_SUPERVISOR_STALL_DETECTOR_H_

#include <stdint.h>

#include <algorithm>

#include "absl/time/time.h"

namespace bulkhead::vmm {

// Finds a process that answers its heartbeats and does not serve an access. It counts answered
// heartbeats during which one access stays the oldest that is owed an answer, and no time: where
// the host is slow, suspended or stopped, heartbeats are not answered, and nothing is held against
// the process. An honest one serves its ring each time before it answers a heartbeat.
// Thread-compatible.
class StallDetector {
 public:
  // `heartbeats`: so many are a stall; 0: none ever is.
  explicit StallDetector(int64_t heartbeats) : limit_(heartbeats) {}
  // As many as there are in `timeout`; zero: never.
  static StallDetector ForTimeout(absl::Duration timeout, absl::Duration interval) {
    if (timeout <= absl::ZeroDuration() || interval <= absl::ZeroDuration())
      return StallDetector(0);
    return StallDetector(std::max<int64_t>(
        1, static_cast<int64_t>(absl::FDivDuration(timeout + interval, interval))));
  }

  // A process begins to serve: what is pending is its predecessor's legacy, and it has all the
  // time.
  void Begin() {
    pending_ = 0;
    count_ = 0;
  }
  // A heartbeat was answered. `pending`: the ticket of the oldest access that is owed an answer, or
  // 0. True: it has been that for too long.
  bool OnHeartbeat(uint64_t pending) {
    count_ = pending != 0 && pending == pending_ ? count_ + 1 : 0;
    pending_ = pending;
    return limit_ != 0 && count_ >= limit_;
  }

 private:
  int64_t limit_;
  uint64_t pending_ = 0;
  int64_t count_ = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_STALL_DETECTOR_H_
