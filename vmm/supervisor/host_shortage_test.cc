#include "vmm/supervisor/host_shortage.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

TEST(HostShortageTest, WaitsTwiceAsLongEachTimeUpToALimitAndNeverEnds) {
  HostShortage shortage([] { return 0.5; });  // no jitter
  absl::Time now = kStart;
  for (const int expected_ms : {100, 200, 400, 800, 1600, 2000, 2000}) {
    const absl::Duration delay = shortage.OnFailedTry(now);
    EXPECT_EQ(delay, absl::Milliseconds(expected_ms));
    now += delay;
  }
  for (int i = 0; i < 100'000; ++i) {
    ASSERT_EQ(shortage.OnFailedTry(now += absl::Seconds(2)), HostShortage::kMaxDelay);
  }
}

TEST(HostShortageTest, TheWaitVariesByAFifth) {
  EXPECT_EQ(HostShortage([] { return 0.0; }).OnFailedTry(kStart), absl::Milliseconds(80));
  EXPECT_LE(HostShortage([] { return 0.999; }).OnFailedTry(kStart), absl::Milliseconds(120));
}

TEST(HostShortageTest, TellsHowLongItLastedAndStartsOver) {
  HostShortage shortage([] { return 0.5; });
  EXPECT_FALSE(shortage.lasts());
  EXPECT_EQ(shortage.End(kStart), absl::ZeroDuration());
  shortage.OnFailedTry(kStart);
  shortage.OnFailedTry(kStart + absl::Seconds(1));
  EXPECT_TRUE(shortage.lasts());
  EXPECT_EQ(shortage.End(kStart + absl::Seconds(3)), absl::Seconds(3));
  EXPECT_FALSE(shortage.lasts());
  EXPECT_EQ(shortage.OnFailedTry(kStart + absl::Seconds(9)), HostShortage::kMinDelay);
}

}  // namespace
}  // namespace bulkhead::vmm
