#ifndef BULKHEAD_DEVICES_HOST_RATE_LIMITER_H_
#define BULKHEAD_DEVICES_HOST_RATE_LIMITER_H_

#include <stdint.h>

#include "absl/time/time.h"

namespace bulkhead::devices {

// A limit on a rate, as a bucket of tokens: they come at a constant rate, until the bucket is full,
// and what happens takes some. It may take more than there are; then the bucket owes tokens, and
// nothing happens until they have come. So a piece that is larger than the bucket passes, too, and
// the rate holds. Pure: the caller has the time. Thread-compatible.
class TokenBucket {
 public:
  // Full. `per_second`: at least 1. `burst`: what a full bucket has; 0: what comes in a tenth of a
  // second.
  TokenBucket(uint64_t per_second, uint64_t burst);

  void Take(uint64_t tokens, absl::Time now);
  void Empty(absl::Time now) { full_at_ = now + to_fill_; }
  uint64_t per_second() const { return per_second_; }
  // When it has tokens again; in the past: it has some.
  absl::Time next() const { return full_at_ - to_fill_; }
  // From empty to full.
  absl::Duration to_fill() const { return to_fill_; }

 private:
  absl::Duration TimeFor(uint64_t tokens) const;

  uint64_t per_second_;
  absl::Duration to_fill_;
  absl::Time full_at_ = absl::InfinitePast();
};

// 0: no limit, or of a burst the default.
struct RateLimits {
  uint64_t bytes_per_second = 0;
  uint64_t operations_per_second = 0;
  uint64_t bytes_burst = 0;
  uint64_t operations_burst = 0;
  bool any() const { return bytes_per_second != 0 || operations_per_second != 0; }
};

// What the buckets of a RateLimiter owe, where it outlives the process. Zeroes: nothing. All of it
// is of a process that may have been compromised.
struct RateDebt {
  struct Bucket {
    int64_t next_ns;      // TokenBucket::next(), of the clock of SteadyNow()
    uint64_t per_second;  // then
  };
  Bucket operations;
  Bucket bytes;
};

// Limits of bytes and of operations, of which both must hold. Thread-compatible.
class RateLimiter {
 public:
  // `debt` outlives this. nullptr: nothing is kept.
  explicit RateLimiter(const RateLimits& limits, RateDebt* debt = nullptr);

  // `operations` have begun, of so many bytes in all.
  void Take(uint64_t operations, uint64_t bytes, absl::Time now);
  // As if the bursts had been used up.
  void Empty(absl::Time now);
  // In a successor, before anything else: the bursts have been used up, and what `debt` says is
  // owed. The limits may be others: so many tokens are owed, not so much time.
  void Resume(absl::Time now);
  // Zero: the next operation may begin. Else it may after this time, and so may a few more: who
  // waits is woken a few hundred times a second at most.
  absl::Duration Wait(absl::Time now) const;

 private:
  void Keep();

  TokenBucket operations_;
  TokenBucket bytes_;
  RateDebt* debt_;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_RATE_LIMITER_H_
