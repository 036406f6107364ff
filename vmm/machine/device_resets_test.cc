#include "vmm/machine/device_resets.h"

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/testing/streams.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kShort = absl::Milliseconds(1);

TEST(DeviceResetsTest, MustWaitUntilAllAreDone) {
  DeviceResets resets({"disk0", "net0"}, *EventFd::Create());
  EXPECT_TRUE(resets.MustWait(kShort));
  resets.Done("disk0", absl::OkStatus());
  EXPECT_TRUE(resets.MustWait(DeviceResets::kLimit - kShort));
  EXPECT_FALSE(IsReadable(resets.fd()));
  EXPECT_TRUE(absl::IsCancelled(resets.status()));
  resets.Done("net0", absl::OkStatus());
  EXPECT_FALSE(resets.MustWait(kShort));
  EXPECT_TRUE(IsReadable(resets.fd()));
  EXPECT_TRUE(resets.status().ok());
}

TEST(DeviceResetsTest, FailAfterTheLimitWithTheNamesOfTheRemainingDevices) {
  DeviceResets resets({"disk0", "net0", "rng0"}, *EventFd::Create());
  resets.Done("net0", absl::OkStatus());
  EXPECT_FALSE(resets.MustWait(DeviceResets::kLimit));
  EXPECT_TRUE(absl::IsDeadlineExceeded(resets.status()));
  EXPECT_THAT(std::string(resets.status().message()),
              HasSubstr("resetting device 'disk0', 'rng0': not done within 30s"));
  resets.Done("disk0", absl::OkStatus());
  resets.Done("rng0", absl::OkStatus());
  EXPECT_TRUE(absl::IsDeadlineExceeded(resets.status())) << "the failure must stay";
}

TEST(DeviceResetsTest, TheFirstFailureCounts) {
  DeviceResets resets({"disk0", "net0"}, *EventFd::Create());
  resets.Done("net0", absl::InternalError("it burns"));
  EXPECT_TRUE(resets.MustWait(kShort)) << "the other may write into guest memory";
  EXPECT_FALSE(resets.MustWait(DeviceResets::kLimit));
  EXPECT_THAT(std::string(resets.status().message()),
              HasSubstr("resetting device 'net0': it burns"));
}

TEST(DeviceResetsTest, WithoutDevicesAreDoneAtOnce) {
  DeviceResets resets({}, *EventFd::Create());
  EXPECT_FALSE(resets.MustWait(kShort));
  EXPECT_TRUE(resets.status().ok());
}

}  // namespace
}  // namespace bulkhead::vmm
