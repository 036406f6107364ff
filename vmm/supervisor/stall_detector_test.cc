#include "vmm/supervisor/stall_detector.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

TEST(StallDetectorTest, AnAccessThatStaysTheOldestOverAllHeartbeatsIsAStall) {
  StallDetector stall(3, 100);
  EXPECT_FALSE(stall.OnHeartbeat(7, false));  // since when is not known
  EXPECT_FALSE(stall.OnHeartbeat(7, false));
  EXPECT_FALSE(stall.OnHeartbeat(7, false));
  EXPECT_TRUE(stall.OnHeartbeat(7, false));
}

TEST(StallDetectorTest, ADeviceThatIsBusyForEverMakesProgress) {
  StallDetector stall(2, 100);
  for (uint64_t ticket = 1; ticket < 1000; ++ticket) {
    EXPECT_FALSE(stall.OnHeartbeat(ticket, false));
    EXPECT_FALSE(stall.OnHeartbeat(ticket, false));
  }
}

TEST(StallDetectorTest, NothingPendingIsNoStall) {
  StallDetector stall(1, 100);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(stall.OnHeartbeat(0, false));
  EXPECT_FALSE(stall.OnHeartbeat(5, false));
  EXPECT_FALSE(stall.OnHeartbeat(0, false));
  EXPECT_FALSE(stall.OnHeartbeat(5, false));
}

TEST(StallDetectorTest, ASuccessorHasAllTheTime) {
  StallDetector stall(2, 100);
  EXPECT_FALSE(stall.OnHeartbeat(7, false));
  EXPECT_FALSE(stall.OnHeartbeat(7, false));
  stall.Begin();
  EXPECT_FALSE(stall.OnHeartbeat(7, false));
  EXPECT_FALSE(stall.OnHeartbeat(7, false));
  EXPECT_TRUE(stall.OnHeartbeat(7, false));
}

TEST(StallDetectorTest, TheTimeoutIsRoundedUpToHeartbeats) {
  const auto heartbeats = [](absl::Duration timeout, absl::Duration interval,
                             bool in_long_call = false) {
    StallDetector stall = StallDetector::ForTimeout(timeout, absl::Seconds(30), interval);
    int count = 0;
    while (!stall.OnHeartbeat(1, in_long_call) && count < 100) ++count;
    return count;
  };
  EXPECT_EQ(heartbeats(absl::Seconds(5), absl::Seconds(1)), 6);
  EXPECT_EQ(heartbeats(absl::Milliseconds(1), absl::Seconds(1)), 1);
  EXPECT_EQ(heartbeats(absl::ZeroDuration(), absl::Seconds(1)), 100);  // never
  EXPECT_EQ(heartbeats(absl::Seconds(5), absl::Seconds(1), true), 31);
  EXPECT_EQ(heartbeats(absl::Seconds(60), absl::Seconds(1), true), 61);
  EXPECT_EQ(heartbeats(absl::ZeroDuration(), absl::Seconds(1), true), 100);  // never
}

TEST(StallDetectorTest, ALongCallHasALimitOfItsOwn) {
  StallDetector stall(2, 5);
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(stall.OnHeartbeat(7, true));
  EXPECT_TRUE(stall.OnHeartbeat(7, true));
}

TEST(StallDetectorTest, AfterALongCallAnAccessThatIsStillOwedIsAStall) {
  StallDetector stall(2, 100);
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(stall.OnHeartbeat(7, true));
  EXPECT_FALSE(stall.OnHeartbeat(7, false));
  EXPECT_FALSE(stall.OnHeartbeat(7, true));
  EXPECT_TRUE(stall.OnHeartbeat(7, false));
}

TEST(StallDetectorTest, EachAccessMayTakeLong) {
  StallDetector stall(2, 5);
  for (uint64_t ticket = 1; ticket < 100; ++ticket) {
    for (int i = 0; i < 5; ++i) EXPECT_FALSE(stall.OnHeartbeat(ticket, true));
  }
}

}  // namespace
}  // namespace bulkhead::vmm
