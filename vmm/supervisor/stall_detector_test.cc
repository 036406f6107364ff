#include "vmm/supervisor/stall_detector.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

TEST(StallDetectorTest, AnAccessThatStaysTheOldestOverAllHeartbeatsIsAStall) {
  StallDetector stall(3);
  EXPECT_FALSE(stall.OnHeartbeat(7));  // since when is not known
  EXPECT_FALSE(stall.OnHeartbeat(7));
  EXPECT_FALSE(stall.OnHeartbeat(7));
  EXPECT_TRUE(stall.OnHeartbeat(7));
}

TEST(StallDetectorTest, ADeviceThatIsBusyForEverMakesProgress) {
  StallDetector stall(2);
  for (uint64_t ticket = 1; ticket < 1000; ++ticket) {
    EXPECT_FALSE(stall.OnHeartbeat(ticket));
    EXPECT_FALSE(stall.OnHeartbeat(ticket));
  }
}

TEST(StallDetectorTest, NothingPendingIsNoStall) {
  StallDetector stall(1);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(stall.OnHeartbeat(0));
  EXPECT_FALSE(stall.OnHeartbeat(5));
  EXPECT_FALSE(stall.OnHeartbeat(0));
  EXPECT_FALSE(stall.OnHeartbeat(5));
}

TEST(StallDetectorTest, ASuccessorHasAllTheTime) {
  StallDetector stall(2);
  EXPECT_FALSE(stall.OnHeartbeat(7));
  EXPECT_FALSE(stall.OnHeartbeat(7));
  stall.Begin();
  EXPECT_FALSE(stall.OnHeartbeat(7));
  EXPECT_FALSE(stall.OnHeartbeat(7));
  EXPECT_TRUE(stall.OnHeartbeat(7));
}

TEST(StallDetectorTest, TheTimeoutIsRoundedUpToHeartbeats) {
  const auto heartbeats = [](absl::Duration timeout, absl::Duration interval) {
    StallDetector stall = StallDetector::ForTimeout(timeout, interval);
    int count = 0;
    while (!stall.OnHeartbeat(1) && count < 100) ++count;
    return count;
  };
  EXPECT_EQ(heartbeats(absl::Seconds(5), absl::Seconds(1)), 6);
  EXPECT_EQ(heartbeats(absl::Milliseconds(1), absl::Seconds(1)), 1);
  EXPECT_EQ(heartbeats(absl::ZeroDuration(), absl::Seconds(1)), 100);  // never
}

}  // namespace
}  // namespace bulkhead::vmm
