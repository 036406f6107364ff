#ifndef BULKHEAD_PROTO_CHANNEL_WAITER_STATE_H_
#define BULKHEAD_PROTO_CHANNEL_WAITER_STATE_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <atomic>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/channel/adaptive_poll.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/channel_metrics.h"

namespace bulkhead::channel {

// A counter for reports. One thread writes it, any thread reads it: needs no locked instruction.
class Counter {
 public:
  void Add(uint64_t n) { value_.store(value() + n, std::memory_order_relaxed); }
  void RaiseTo(uint64_t n) {
    if (n > value()) value_.store(n, std::memory_order_relaxed);
  }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// The counters of one waiter of a ChannelClient. The thread that uses the waiter writes them.
class WaiterCounters {
 public:
  void CountSent(uint8_t operation) { sent_[operation & (sent_.size() - 1)].Add(1); }
  void CountAnswer(bool slept) { (slept ? slept_answers_ : polled_answers_).Add(1); }
  void CountLatency(uint64_t nanoseconds) {
    latency_sum_ns_.Add(nanoseconds);
    latency_[LatencyHistogram::BucketOf(nanoseconds)].Add(1);
  }
  void CountError(absl::StatusCode code) {
    if (code == absl::StatusCode::kDeadlineExceeded) timeouts_.Add(1);
    if (code == absl::StatusCode::kCancelled) cancelled_.Add(1);
  }
  void CountGivenUp() { given_up_.Add(1); }
  void CountStall(uint64_t nanoseconds) {
    stalls_.Add(1);
    stall_ns_.Add(nanoseconds);
  }
  void RaiseOccupancy(uint64_t requests) { max_occupancy_.RaiseTo(requests); }

  // Thread-safe.
  void AddTo(ChannelMetrics& metrics) const;

 private:
  std::array<Counter, 8> sent_;  // by Operation
  Counter polled_answers_;
  Counter slept_answers_;
  Counter latency_sum_ns_;
  std::array<Counter, LatencyHistogram::kBuckets> latency_;
  Counter timeouts_;
  Counter cancelled_;
  Counter given_up_;
  Counter stalls_;
  Counter stall_ns_;
  Counter max_occupancy_;
};

// The state of one waiter of a ChannelClient. The thread that uses the waiter writes it.
struct alignas(kCacheLineBytes) WaiterState {
  AdaptivePoll poll{absl::ZeroDuration()};
  uint64_t awaited_ticket = 0;  // of the last request whose answer was not taken; 0: none
  uint8_t awaited_size_bytes = 0;

  // 1: in HeadMovedPast(), which has perhaps read the head but not copied it to seen_head_ yet.
  std::atomic<uint32_t> reads_head{0};
  // 1: PrepareSuccessor() asks it to look again, see LookAgain(). Written under the client's mutex.
  std::atomic<uint32_t> must_look{0};
  // For PrepareSuccessor(). Of all requests but posted writes, which get no answer: the last one
  // sent (set before the device can see it), and the last one whose answer was taken.
  std::atomic<uint64_t> sent_ticket{0};
  std::atomic<uint64_t> taken_ticket{0};
  std::atomic<uint8_t> sent_operation{0};  // of sent_ticket

  alignas(kCacheLineBytes) WaiterCounters counters;
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_WAITER_STATE_H_
