#ifndef BULKHEAD_PROTO_CHANNEL_CHANNEL_METRICS_H_
#define BULKHEAD_PROTO_CHANNEL_CHANNEL_METRICS_H_

#include <stddef.h>
#include <stdint.h>

#include <array>

#include "absl/time/time.h"

namespace bulkhead::channel {

// Counts times in buckets of powers of two, in nanoseconds.
struct LatencyHistogram {
  static constexpr size_t kBuckets = 33;

  static constexpr size_t BucketOf(uint64_t nanoseconds) {
    const size_t bits = nanoseconds == 0 ? 0 : 64 - __builtin_clzll(nanoseconds);
    return bits < kBuckets ? bits : kBuckets - 1;
  }
  // The longest time that a bucket counts. The last bucket counts all times above 2 s.
  static constexpr uint64_t UpperBoundNanoseconds(size_t bucket) {
    return bucket + 1 < kBuckets ? (uint64_t{1} << bucket) - 1 : UINT64_MAX;
  }

  void Add(uint64_t nanoseconds) {
    ++buckets[BucketOf(nanoseconds)];
    ++count;
    sum += absl::Nanoseconds(nanoseconds);
  }

  std::array<uint64_t, kBuckets> buckets = {};  // each its own, not cumulative
  uint64_t count = 0;
  absl::Duration sum;
};

// The counters of one channel since it was created, for all processes that have served it.
struct ChannelMetrics {
  // Requests sent, of each kind.
  uint64_t reads = 0;
  uint64_t writes = 0;  // answered ones
  uint64_t posted_writes = 0;
  uint64_t function_states = 0;
  uint64_t resets = 0;

  // Calls that ended so, sent or not. A call that AwaitAnswer() continues counts each time.
  uint64_t timeouts = 0;
  uint64_t cancelled = 0;
  uint64_t given_up = 0;  // by PrepareSuccessor()

  // Answers that a waiter got while it polled, and while it slept. `latency` is from the sending to
  // the answer, without those that AwaitAnswer() took.
  uint64_t polled_answers = 0;
  uint64_t slept_answers = 0;
  LatencyHistogram latency;

  // Requests that found the ring full, and how long they waited in total.
  uint64_t ring_full_stalls = 0;
  absl::Duration ring_full_time;

  // Requests in the ring: now, and the maximum. The maximum is updated about once a ring full of
  // requests, and when a request finds the ring full: it may miss shorter bursts.
  uint64_t occupancy = 0;
  uint64_t max_occupancy = 0;
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_METRICS_H_
