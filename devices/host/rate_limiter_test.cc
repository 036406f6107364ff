#include "devices/host/rate_limiter.h"

#include <stdint.h>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::devices {
namespace {

const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

// Does operations of `bytes` each whenever it may, for `length`. Returns how many.
int RunFor(RateLimiter& limiter, uint64_t bytes, absl::Duration length, int* waits = nullptr) {
  int operations = 0;
  for (absl::Time now = kStart; now < kStart + length;) {
    const absl::Duration wait = limiter.Wait(now);
    if (wait > absl::ZeroDuration()) {
      now += wait;
      if (waits != nullptr) ++*waits;
      continue;
    }
    limiter.Take(1, bytes, now);
    ++operations;
    now += absl::Microseconds(1);
  }
  return operations;
}

TEST(RateLimiterTest, ABurstGoesAtOnceAndThenTheRateHolds) {
  RateLimiter limiter({.operations_per_second = 1000, .operations_burst = 50});
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(limiter.Wait(kStart), absl::ZeroDuration()) << i;
    limiter.Take(1, 4096, kStart);
  }
  EXPECT_GT(limiter.Wait(kStart), absl::ZeroDuration());
  EXPECT_NEAR(RunFor(limiter, 4096, absl::Seconds(10)), 10'000, 10);
}

TEST(RateLimiterTest, WithoutABurstATenthOfASecondGoesAtOnce) {
  RateLimiter limiter({.operations_per_second = 1000});
  EXPECT_NEAR(RunFor(limiter, 0, absl::Seconds(10)), 10'100, 10);
}

TEST(RateLimiterTest, BothLimitsHold) {
  // 256 operations of 4 KiB a second.
  RateLimiter by_bytes({.bytes_per_second = 1 << 20, .operations_per_second = 1000});
  EXPECT_NEAR(RunFor(by_bytes, 4096, absl::Seconds(10)), 2560 + 26, 3);
  RateLimiter by_operations({.bytes_per_second = 1 << 20, .operations_per_second = 100});
  EXPECT_NEAR(RunFor(by_operations, 512, absl::Seconds(10)), 1010, 3);
}

TEST(RateLimiterTest, WhatIsLargerThanTheBurstPassesAndIsPaidForAfterwards) {
  RateLimiter limiter({.bytes_per_second = 1 << 20, .bytes_burst = 4096});
  EXPECT_EQ(limiter.Wait(kStart), absl::ZeroDuration());
  limiter.Take(1, 1 << 20, kStart);
  EXPECT_GE(limiter.Wait(kStart), absl::Seconds(1) - absl::Milliseconds(4));
  EXPECT_NEAR(RunFor(limiter, 1 << 20, absl::Seconds(10)), 10, 1);
}

TEST(RateLimiterTest, AtAHighRateAWaiterIsWokenSeldom) {
  RateLimiter limiter({.operations_per_second = 200'000});
  int waits = 0;
  EXPECT_NEAR(RunFor(limiter, 0, absl::Seconds(1), &waits), 220'000, 1000);
  EXPECT_LE(waits, 260);
}

TEST(RateLimiterTest, EmptyIsAsIfTheBurstHadBeenUsedUp) {
  RateLimiter limiter({.bytes_per_second = 1000, .bytes_burst = 1000});
  limiter.Empty(kStart);
  EXPECT_GT(limiter.Wait(kStart), absl::ZeroDuration());
  EXPECT_EQ(limiter.Wait(kStart + absl::Milliseconds(10)), absl::ZeroDuration());
}

TEST(RateLimiterTest, ASuccessorOwesWhatItsPredecessorTookAndHasNoBurst) {
  RateDebt debt = {};
  RateLimiter limiter({.bytes_per_second = 1000, .bytes_burst = 1000}, &debt);
  limiter.Take(1, 6000, kStart);  // 5000 more than there were
  RateLimiter same({.bytes_per_second = 1000, .bytes_burst = 1000}, &debt);
  same.Resume(kStart + absl::Seconds(1));
  EXPECT_EQ(same.Wait(kStart + absl::Seconds(5.1)), absl::ZeroDuration());
  EXPECT_GE(same.Wait(kStart + absl::Seconds(4.9)), absl::Milliseconds(99));
  // Deaths one after the other give nothing.
  debt = {};
  RateLimiter slow({.operations_per_second = 100, .operations_burst = 1}, &debt);
  slow.Take(2, 0, kStart);
  for (int i = 1; i < 8; ++i) {
    RateLimiter successor({.operations_per_second = 100, .operations_burst = 1}, &debt);
    successor.Resume(kStart + i * absl::Milliseconds(1));
    EXPECT_GT(successor.Wait(kStart + absl::Milliseconds(9)), absl::ZeroDuration());
  }
  debt = {};
  RateLimiter again({.bytes_per_second = 1000, .bytes_burst = 1000}, &debt);
  again.Take(1, 6000, kStart);
  // With another limit as many bytes are owed, not as many seconds.
  RateLimiter faster({.bytes_per_second = 100'000}, &debt);
  faster.Resume(kStart + absl::Seconds(1));
  EXPECT_NEAR(absl::ToDoubleSeconds(faster.Wait(kStart + absl::Seconds(1))), 0.04, 0.005);
  // Without a debt the burst is gone all the same.
  debt = {};
  RateLimiter without({.bytes_per_second = 1000, .bytes_burst = 1000}, &debt);
  without.Resume(kStart);
  EXPECT_GT(without.Wait(kStart), absl::ZeroDuration());
  EXPECT_EQ(without.Wait(kStart + absl::Milliseconds(10)), absl::ZeroDuration());
}

TEST(RateLimiterTest, ADebtThatAProcessHasMadeUpEnds) {
  constexpr int64_t kTimes[] = {INT64_MIN, -1, 0, INT64_MAX};
  for (const int64_t time : kTimes) {
    for (const uint64_t rate : {uint64_t{0}, uint64_t{1}, UINT64_MAX}) {
      RateDebt debt = {.operations = {time, rate}, .bytes = {time, rate}};
      RateLimiter limiter({.bytes_per_second = 1 << 30, .operations_per_second = 1 << 16}, &debt);
      limiter.Resume(kStart);
      EXPECT_EQ(limiter.Wait(kStart + absl::Seconds(2)), absl::ZeroDuration());
    }
  }
}

TEST(RateLimiterTest, WithoutLimitsNothingWaits) {
  EXPECT_FALSE(RateLimits{}.any());
  RateLimiter limiter({});
  for (int i = 0; i < 1000; ++i) limiter.Take(1000, uint64_t{1} << 40, kStart);
  EXPECT_EQ(limiter.Wait(kStart + absl::Milliseconds(1)), absl::ZeroDuration());
}

}  // namespace
}  // namespace bulkhead::devices
