#ifndef BULKHEAD_DEVICES_VIRTIO_REQUEST_TIMER_H_
#define BULKHEAD_DEVICES_VIRTIO_REQUEST_TIMER_H_

#include <stdint.h>

#include <algorithm>

namespace bulkhead::devices::virtio {

// Chooses the requests of one queue that are timed, from their taking to their completion: two
// looks at the clock for each request would cost too much. Of a queue with little to do they are
// all timed, as long as one is done before the next is taken; of a busy one, some. It is chosen at
// random which, so that a pattern of the guest (bursts, every second request a flush) does not
// decide. One request is timed at a time.
//
// Thread-compatible. Times are of any clock that does not go back.
class RequestTimer {
 public:
  // Requests that are timed less than this apart make the timer skip some.
  static constexpr uint64_t kBusyNanoseconds = 1'000'000;
  static constexpr uint32_t kMostSkipped = 63;
  // So many others may be taken while one is timed, which is far more than a queue holds: a request
  // that never ends must not be the last one.
  static constexpr uint32_t kMostMeanwhile = 1 << 16;

  // The request with this head is taken. True: call Begin(), which ends what was timed till now.
  bool Wants(uint16_t head) {
    if (timed_ != kNone) return timed_ == head || ++meanwhile_ >= kMostMeanwhile;
    if (skip_ == 0) return true;
    --skip_;
    return false;
  }

  void Begin(uint16_t head, uint64_t now_ns) {
    const bool busy = begin_ns_ != 0 && now_ns - begin_ns_ < kBusyNanoseconds;
    most_skipped_ = busy ? std::min(2 * most_skipped_ + 1, kMostSkipped) : 0;
    meanwhile_ = 0;
    timed_ = head;
    begin_ns_ = now_ns;
  }

  // The request with this head is completed. True: call End().
  bool IsTimed(uint16_t head) const { return timed_ == head; }

  // Returns how long it took.
  uint64_t End(uint64_t now_ns) {
    timed_ = kNone;
    random_ = random_ * 1664525 + 1013904223;
    // Those that were taken meanwhile may have come in one burst with it, and so may the next ones.
    const uint32_t most = std::max(most_skipped_, std::min(meanwhile_, kMostSkipped));
    skip_ = (random_ >> 16) % (most + 1);
    return now_ns - begin_ns_;
  }

  // The queue is reset: what is in flight ends, but not as the driver has wanted it.
  void Drop() { timed_ = kNone; }

 private:
  static constexpr uint32_t kNone = 1 << 16;  // no head

  uint32_t timed_ = kNone;
  uint32_t skip_ = 0;       // so many requests are not timed, while none is
  uint32_t meanwhile_ = 0;  // requests taken since Begin()
  uint32_t most_skipped_ = 0;
  uint32_t random_ = 1;
  uint64_t begin_ns_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_REQUEST_TIMER_H_
