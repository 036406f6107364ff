#include "devices/host/rate_limiter.h"

#include <algorithm>
#include <cmath>

namespace bulkhead::devices {
namespace {

constexpr uint64_t kNoLimit = uint64_t{1} << 62;
// What comes in this time is waited for, or half of a smaller bucket.
constexpr absl::Duration kLongestGathering = absl::Milliseconds(4);

// Of a successor, at most: so a debt that a process has made up ends some time.
constexpr double kMaxOperationsOwed = 1 << 16;
constexpr double kMaxBytesOwed = 1 << 30;

uint64_t OrNoLimit(uint64_t per_second) { return per_second == 0 ? kNoLimit : per_second; }

void Resume(TokenBucket& bucket, const RateDebt::Bucket& debt, double most, absl::Time now) {
  const absl::Duration time = absl::FromUnixNanos(debt.next_ns) - now;
  const double tokens = absl::ToDoubleSeconds(time) * static_cast<double>(debt.per_second);
  bucket.Empty(now);
  // A part of a token counts as one: else each death would give one.
  if (tokens > 0) bucket.Take(static_cast<uint64_t>(std::ceil(std::min(tokens, most))), now);
}

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

RateLimiter::RateLimiter(const RateLimits& limits, RateDebt* debt)
    : operations_(OrNoLimit(limits.operations_per_second), limits.operations_burst),
      bytes_(OrNoLimit(limits.bytes_per_second), limits.bytes_burst),
      debt_(debt) {}

void RateLimiter::Take(uint64_t operations, uint64_t bytes, absl::Time now) {
  operations_.Take(operations, now);
  bytes_.Take(bytes, now);
  Keep();
}

void RateLimiter::Empty(absl::Time now) {
  operations_.Empty(now);
  bytes_.Empty(now);
}

void RateLimiter::Resume(absl::Time now) {
  const RateDebt debt = debt_ == nullptr ? RateDebt{} : *debt_;
  devices::Resume(operations_, debt.operations, kMaxOperationsOwed, now);
  devices::Resume(bytes_, debt.bytes, kMaxBytesOwed, now);
  Keep();
}

void RateLimiter::Keep() {
  if (debt_ == nullptr) return;
  *debt_ = {.operations = {absl::ToUnixNanos(operations_.next()), operations_.per_second()},
            .bytes = {absl::ToUnixNanos(bytes_.next()), bytes_.per_second()}};
}

absl::Duration RateLimiter::Wait(absl::Time now) const {
  const TokenBucket& later = operations_.next() > bytes_.next() ? operations_ : bytes_;
  if (later.next() < now) return absl::ZeroDuration();
  return later.next() - now + std::min(later.to_fill() / 2, kLongestGathering);
}

}  // namespace bulkhead::devices
