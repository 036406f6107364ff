#include "proto/channel/adaptive_poll.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::channel {
namespace {

// Of `waits` waits in a row, how many poll, if every poll ends with `success`.
int CountPolls(AdaptivePoll& poll, int waits, bool success) {
  int polls = 0;
  for (int i = 0; i < waits; ++i) {
    if (poll.NextIterations() == 0) continue;
    ++polls;
    poll.Record(success);
  }
  return polls;
}

TEST(AdaptivePollTest, ZeroNeverPolls) {
  AdaptivePoll poll(absl::ZeroDuration());
  EXPECT_EQ(CountPolls(poll, 100, true), 0);
}

TEST(AdaptivePollTest, PollsAlwaysWhileItSucceeds) {
  AdaptivePoll poll(absl::Microseconds(50));
  EXPECT_EQ(CountPolls(poll, 100, true), 100);
}

TEST(AdaptivePollTest, AFewFailuresEndPollingButForEverRarerTries) {
  AdaptivePoll poll(absl::Microseconds(50));
  EXPECT_EQ(CountPolls(poll, 15, false), 6);
  EXPECT_EQ(CountPolls(poll, 1000, false), 6) << "after 16, 32, ... 512 waits";
  EXPECT_EQ(CountPolls(poll, 5120, false), 10);
}

TEST(AdaptivePollTest, OneFailureInThreeDoesNotEndIt) {
  AdaptivePoll poll(absl::Microseconds(50));
  int polls = 0;
  for (int i = 0; i < 300; ++i) polls += CountPolls(poll, 1, i % 3 != 0);
  EXPECT_EQ(polls, 300);
}

TEST(AdaptivePollTest, PollsAgainOnceATrySucceeds) {
  AdaptivePoll poll(absl::Microseconds(50));
  CountPolls(poll, 5000, false);
  EXPECT_GE(CountPolls(poll, 512, true), 1);
  EXPECT_EQ(CountPolls(poll, 20, true), 20);
}

TEST(AdaptivePollTest, IterationsAreInProportionToTheTime) {
  AdaptivePoll brief(absl::Microseconds(10));
  AdaptivePoll lasting(absl::Microseconds(100));
  EXPECT_GE(brief.NextIterations(), 1u);
  EXPECT_NEAR(lasting.NextIterations() / static_cast<double>(brief.NextIterations()), 10, 1);
}

}  // namespace
}  // namespace bulkhead::channel
