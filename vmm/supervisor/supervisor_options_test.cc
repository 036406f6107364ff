#include "vmm/supervisor/supervisor_options.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

TEST(SupervisorOptionsTest, DevicesThatShareAProcessorHaveLongerToStart) {
  EXPECT_EQ(StartTimeoutFor(1, 1), absl::Seconds(10));
  EXPECT_EQ(StartTimeoutFor(12, 16), absl::Seconds(10));
  EXPECT_EQ(StartTimeoutFor(4, 2), absl::Seconds(10));
  EXPECT_EQ(StartTimeoutFor(12, 2), absl::Seconds(30));
  EXPECT_EQ(StartTimeoutFor(12, 1), absl::Seconds(60));
}

TEST(SupervisorOptionsTest, AnUnknownNumberOfProcessorsCountsAsOne) {
  EXPECT_EQ(StartTimeoutFor(4, 0), absl::Seconds(20));
}

}  // namespace
}  // namespace bulkhead::vmm
