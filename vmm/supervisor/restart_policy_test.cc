#include "vmm/supervisor/restart_policy.h"

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using Action = RestartPolicy::Decision::Action;
using Policy = RestartSpec::Policy;

constexpr absl::Duration kMoment = absl::Milliseconds(1);

class RestartPolicyTest : public testing::Test {
 protected:
  // A crash after the process had served that long.
  RestartPolicy::Decision Crash(RestartPolicy& policy, absl::Duration served) {
    now_ += served;
    RestartPolicy::Decision decision = policy.OnEnd(now_, served, /*clean=*/false);
    now_ += decision.delay;
    return decision;
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  double random_ = 0.5;  // no jitter
  std::function<double()> source_ = [this] { return random_; };
};

TEST_F(RestartPolicyTest, TheFirstRestartIsAtOnceAndTheNextWaitTwiceAsLongEachTime) {
  RestartPolicy policy(
      {.min_backoff = absl::Milliseconds(100), .max_backoff = absl::Seconds(1), .max_crashes = -1},
      source_);
  std::vector<absl::Duration> delays;
  for (int i = 0; i < 7; ++i) delays.push_back(Crash(policy, kMoment).delay);
  EXPECT_THAT(delays,
              testing::ElementsAre(absl::ZeroDuration(), absl::Milliseconds(100),
                                   absl::Milliseconds(200), absl::Milliseconds(400),
                                   absl::Milliseconds(800), absl::Seconds(1), absl::Seconds(1)));
}

TEST_F(RestartPolicyTest, TheWaitVariesByAFifth) {
  RestartPolicy policy({.min_backoff = absl::Seconds(1), .max_backoff = absl::Seconds(1)}, source_);
  random_ = 0;
  EXPECT_EQ(Crash(policy, kMoment).delay, absl::ZeroDuration());
  EXPECT_EQ(Crash(policy, kMoment).delay, absl::Milliseconds(800));
  random_ = 0.999999;
  const absl::Duration longest = Crash(policy, kMoment).delay;
  EXPECT_GT(longest, absl::Milliseconds(1199));
  EXPECT_LT(longest, absl::Milliseconds(1200));
}

TEST_F(RestartPolicyTest, AProcessThatServedForTenSecondsStartsOver) {
  RestartPolicy policy({.min_backoff = absl::Seconds(1), .max_backoff = absl::Minutes(1)}, source_);
  Crash(policy, kMoment);
  EXPECT_EQ(Crash(policy, kMoment).delay, absl::Seconds(1));
  EXPECT_EQ(Crash(policy, absl::Milliseconds(9999)).delay, absl::Seconds(2));
  EXPECT_EQ(Crash(policy, RestartPolicy::kStableRun).delay, absl::ZeroDuration());
}

TEST_F(RestartPolicyTest, TooManyEndsWithinTheWindowAreTheLast) {
  RestartPolicy policy({.max_crashes = 3, .crash_window = absl::Seconds(60)}, source_);
  EXPECT_EQ(Crash(policy, kMoment).action, Action::kRestart);
  EXPECT_EQ(Crash(policy, kMoment).action, Action::kRestart);
  const RestartPolicy::Decision last = Crash(policy, kMoment);
  EXPECT_EQ(last.action, Action::kFail);
  EXPECT_EQ(last.reason, "3 crashes in 1m");
}

TEST_F(RestartPolicyTest, EndsThatLieFurtherApartGoOnForEver) {
  RestartPolicy policy({.max_crashes = 3, .crash_window = absl::Seconds(60)}, source_);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(Crash(policy, absl::Seconds(31)).action, Action::kRestart) << i;
  }
}

TEST_F(RestartPolicyTest, AStableRunDoesNotEmptyTheWindow) {
  RestartPolicy policy({.max_crashes = 3, .crash_window = absl::Seconds(60)}, source_);
  Crash(policy, absl::Seconds(11));
  Crash(policy, absl::Seconds(11));
  EXPECT_EQ(Crash(policy, absl::Seconds(11)).action, Action::kFail);
}

TEST_F(RestartPolicyTest, NoEndIsTooManyWithoutALimit) {
  RestartPolicy policy({.max_backoff = kMoment, .max_crashes = -1}, source_);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(Crash(policy, kMoment).action, Action::kRestart);
}

TEST_F(RestartPolicyTest, NothingOfThePastCountsAfterAPersonIntervened) {
  RestartPolicy policy({.max_crashes = 2, .crash_window = absl::Seconds(60)}, source_);
  Crash(policy, kMoment);
  ASSERT_EQ(Crash(policy, kMoment).action, Action::kFail);
  policy.Forget();
  const RestartPolicy::Decision next = Crash(policy, kMoment);
  EXPECT_EQ(next.action, Action::kRestart);
  EXPECT_EQ(next.delay, absl::ZeroDuration());
}

TEST_F(RestartPolicyTest, NeverRestartsWhereThePolicySaysSo) {
  RestartPolicy policy({.policy = Policy::kNever}, source_);
  EXPECT_EQ(policy.OnEnd(now_, kMoment, /*clean=*/false).action, Action::kFail);
  EXPECT_EQ(policy.OnEnd(now_, kMoment, /*clean=*/true).action, Action::kFail);
}

TEST_F(RestartPolicyTest, ACleanEndIsFinalUnlessThePolicyIsAlways) {
  RestartPolicy on_failure({.policy = Policy::kOnFailure}, source_);
  EXPECT_EQ(on_failure.OnEnd(now_, kMoment, /*clean=*/true).action, Action::kStop);
  EXPECT_EQ(on_failure.OnEnd(now_, kMoment, /*clean=*/false).action, Action::kRestart);
  RestartPolicy always({.policy = Policy::kAlways}, source_);
  EXPECT_EQ(always.OnEnd(now_, kMoment, /*clean=*/true).action, Action::kRestart);
}

}  // namespace
}  // namespace bulkhead::vmm
