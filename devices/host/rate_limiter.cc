#include "devices/host/rate_limiter.h"

#include <algorithm>

namespace bulkhead::devices {
namespace {

constexpr uint64_t kNoLimit = uint64_t{1} << 62;
// What comes in this time is waited for, or half of a smaller bucket.
constexpr absl::Duration kLongestGathering = absl::Milliseconds(4);

uint64_t OrNoLimit(uint64_t per_second) { return per_second == 0 ? kNoLimit : per_second; }

}  // namespace

TokenBucket::TokenBucket(uint64_t per_second, uint64_t burst)
    : per_second_(std::min(per_second, kNoLimit)),
      to_fill_(burst == 0 ? absl::Milliseconds(100) : TimeFor(burst)) {}

absl::Duration TokenBucket::TimeFor(uint64_t tokens) const {
  return absl::Seconds(static_cast<double>(tokens) / static_cast<double>(per_second_));
}

void TokenBucket::Take(uint64_t tokens, absl::Time now) {
  full_at_ = std::max(full_at_, now) + TimeFor(tokens);
}

RateLimiter::RateLimiter(const RateLimits& limits)
    : operations_(OrNoLimit(limits.operations_per_second), limits.operations_burst),
      bytes_(OrNoLimit(limits.bytes_per_second), limits.bytes_burst) {}

void RateLimiter::Take(uint64_t operations, uint64_t bytes, absl::Time now) {
  operations_.Take(operations, now);
  bytes_.Take(bytes, now);
}

void RateLimiter::Empty(absl::Time now) {
  operations_.Empty(now);
  bytes_.Empty(now);
}

absl::Duration RateLimiter::Wait(absl::Time now) const {
  const TokenBucket& later = operations_.next() > bytes_.next() ? operations_ : bytes_;
  if (later.next() < now) return absl::ZeroDuration();
  return later.next() - now + std::min(later.to_fill() / 2, kLongestGathering);
}

}  // namespace bulkhead::devices
