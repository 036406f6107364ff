#ifndef BULKHEAD_VMM_SUPERVISOR_STALL_DETECTOR_H_
#define BULKHEAD_VMM_SUPERVISOR_STALL_DETECTOR_H_

#include <stdint.h>

#include <algorithm>

#include "absl/time/time.h"

namespace bulkhead::vmm {

// Detects a process that answers its heartbeats and does not serve an access. It counts answered
// heartbeats during which one access stays the oldest that is owed an answer. It does not measure
// time: while the host is slow or suspended heartbeats are not answered, and do not count against
// the process. An honest process looks for requests between two answers, or says that it did not
// (ChannelServer::AnswerHeartbeat(), while its model works and calls KeepAlive()). Such answers
// have a limit of their own, or a process that lies could hold an access for ever.
// Thread-compatible.
class StallDetector {
 public:
  // `heartbeats`: so many are a stall; 0: none ever is. `long_call_heartbeats`: so many are one
  // although the process says that it is in a long call.
  StallDetector(int64_t heartbeats, int64_t long_call_heartbeats)
      : limit_(heartbeats), long_call_limit_(long_call_heartbeats) {}
  // As many as there are in `timeout`, zero: never; and in `access_timeout`, after which the guest
  // has given up the access anyway.
  static StallDetector ForTimeout(absl::Duration timeout, absl::Duration access_timeout,
                                  absl::Duration interval) {
    if (timeout <= absl::ZeroDuration() || interval <= absl::ZeroDuration())
      return StallDetector(0, 0);
    const auto count = [interval](absl::Duration time) {
      return std::max<int64_t>(1,
                               static_cast<int64_t>(absl::FDivDuration(time + interval, interval)));
    };
    return StallDetector(count(timeout), count(std::max(timeout, access_timeout)));
  }

  // A process begins to serve. What its predecessor left pending does not count against it.
  void Begin() { *this = StallDetector(limit_, long_call_limit_); }
  // A heartbeat was answered. `pending`: the ticket of the oldest access that is owed an answer, or
  // 0. True: it has been the oldest for too long.
  bool OnHeartbeat(uint64_t pending, bool in_long_call) {
    if (pending == 0 || pending != pending_) {
      pending_ = pending;
      count_ = long_call_count_ = 0;
      return false;
    }
    ++(in_long_call ? long_call_count_ : count_);
    return limit_ != 0 && (count_ >= limit_ || long_call_count_ >= long_call_limit_);
  }

 private:
  int64_t limit_;
  int64_t long_call_limit_;
  uint64_t pending_ = 0;
  int64_t count_ = 0;
  int64_t long_call_count_ = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_STALL_DETECTOR_H_
