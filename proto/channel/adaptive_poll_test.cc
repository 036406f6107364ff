#include "proto/channel/adaptive_poll.h"

#include <stdint.h>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::channel {
namespace {

constexpr int64_t kMicrosecond = 1000;
constexpr int64_t kSecond = 1'000'000 * kMicrosecond;
constexpr int64_t kMaxPoll = 50 * kMicrosecond;

int64_t now = 0;  // of the polls' clock
int64_t FakeClock() { return now; }

AdaptivePoll Poll() { return AdaptivePoll(absl::Nanoseconds(kMaxPoll), FakeClock); }

// Of `waits` waits, each after `between` nanoseconds, how many poll, if every poll ends with
// `success`. One that fails takes all of its time.
int CountPolls(AdaptivePoll& poll, int waits, bool success, int64_t between) {
  int polls = 0;
  for (int i = 0; i < waits; ++i) {
    now += between;
    if (poll.NextIterations() == 0) continue;
    ++polls;
    if (!success) now += kMaxPoll;
    poll.Record(success);
  }
  return polls;
}

TEST(AdaptivePollTest, ZeroNeverPolls) {
  AdaptivePoll poll(absl::ZeroDuration());
  EXPECT_EQ(CountPolls(poll, 100, true, kMicrosecond), 0);
}

TEST(AdaptivePollTest, PollsAlwaysWhileItSucceeds) {
  AdaptivePoll poll = Poll();
  EXPECT_EQ(CountPolls(poll, 100, true, kMicrosecond), 100);
}

TEST(AdaptivePollTest, AFewFailuresEndPollingButForTrials) {
  AdaptivePoll poll = Poll();
  EXPECT_EQ(CountPolls(poll, 15, false, kMicrosecond), 6);
  EXPECT_EQ(CountPolls(poll, 1000, false, 100 * kMicrosecond), 31) << "each 32nd wait";
}

TEST(AdaptivePollTest, PollsThatFailTakeASmallShareOfTheTimeHoweverManyWaitsThereAre) {
  AdaptivePoll poll = Poll();
  CountPolls(poll, 100, false, kMicrosecond);
  const int64_t begin = now;
  const int polls = CountPolls(poll, 1'000'000, false, kMicrosecond);
  EXPECT_GT(polls, 100);
  EXPECT_LE(64 * polls * kMaxPoll, now - begin);
}

TEST(AdaptivePollTest, OneThatIsIdleButForHeartbeatsHardlyPolls) {
  AdaptivePoll poll = Poll();
  CountPolls(poll, 100, false, kMicrosecond);
  EXPECT_LE(CountPolls(poll, 160, false, kSecond), 10);
}

TEST(AdaptivePollTest, OneFailureInThreeDoesNotEndIt) {
  AdaptivePoll poll = Poll();
  int polls = 0;
  for (int i = 0; i < 300; ++i) polls += CountPolls(poll, 1, i % 3 != 0, kMicrosecond);
  EXPECT_EQ(polls, 300);
}

TEST(AdaptivePollTest, PollsAgainWithinMillisecondsOfAChangeHoweverLongItHasFailed) {
  for (const int64_t between : {kMicrosecond, 20 * kMicrosecond, 90 * kMicrosecond}) {
    AdaptivePoll poll = Poll();
    CountPolls(poll, 100'000, false, between);
    const int64_t begin = now;
    while (CountPolls(poll, 1, true, between) == 0) {
    }
    EXPECT_LE(now - begin, 4000 * kMicrosecond);
    EXPECT_EQ(CountPolls(poll, 20, true, between), 20);
  }
}

TEST(AdaptivePollTest, IterationsAreInProportionToTheTime) {
  AdaptivePoll brief(absl::Microseconds(10));
  AdaptivePoll lasting(absl::Microseconds(100));
  EXPECT_GE(brief.NextIterations(), 1u);
  EXPECT_NEAR(lasting.NextIterations() / static_cast<double>(brief.NextIterations()), 10, 1);
}

}  // namespace
}  // namespace bulkhead::channel
