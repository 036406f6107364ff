#include "base/running_time.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

constexpr absl::Duration kStep = absl::Milliseconds(100);
const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

TEST(RunningTimeTest, StepsThatComeInTimeCountInFull) {
  RunningTime time(kStep, kStart);
  for (int i = 1; i <= 20; ++i) {
    EXPECT_EQ(time.Advance(kStart + i * kStep), i * kStep);
  }
}

TEST(RunningTimeTest, AGapOfHalfAMinuteCountsAsTwoSteps) {
  RunningTime time(kStep, kStart);
  EXPECT_EQ(time.Advance(kStart + absl::Seconds(30)), 2 * kStep);
  EXPECT_EQ(time.Advance(kStart + absl::Seconds(30) + kStep), 3 * kStep);
}

TEST(RunningTimeTest, AWakeUpThatComesEarlyCountsWhatItIs) {
  RunningTime time(kStep, kStart);
  EXPECT_EQ(time.Advance(kStart + absl::Milliseconds(1)), absl::Milliseconds(1));
  EXPECT_EQ(time.Advance(kStart), absl::Milliseconds(1));
}

}  // namespace
}  // namespace bulkhead
