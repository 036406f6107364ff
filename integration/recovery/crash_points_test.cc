// Each device's process dies at each of its crash points, which its binary lists itself, under a
// guest that uses all devices in every way; the guest must not notice.
//
// The first process is killed as soon as the guest works. The second one dies at the point, be it
// in its attachment or later; the third one goes on.

#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "integration/recovery/device_deaths.h"

namespace bulkhead::integration {
namespace {

constexpr char kWorkPolled[] = "after_work_polled";

struct Case {
  UsedDevice device;
  std::string point;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.device.binary << " at " << c.point; }

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const UsedDevice& device : UsedDevices()) {
    for (const std::string& point : CrashPointsOf(device.binary)) {
      // A serial port has no doorbells.
      if (device.binary == "uart16550" && absl::StartsWith(point, "after_doorbell_")) continue;
      cases.push_back({device, point});
    }
  }
  return cases;
}

class CrashPointsTest : public testing::TestWithParam<Case> {};

TEST_P(CrashPointsTest, TheGuestNoticesNothing) {
  const auto& [device, point] = GetParam();
  MakeDiskImage();
  std::string config = ResourceOf(device.name);
  // On a busy host the guest does not always ask for more within the default.
  if (point == kWorkPolled) config += " max_poll: \"10ms\"";
  // The third process in the middle of the work, where it comes by there so often.
  const int deaths = RunUnderDeaths({.device = device.name,
                                     .binary = device.binary,
                                     .config = config,
                                     .points = {point, absl::StrCat(point, ":7")}})
                         .died;
  EXPECT_GE(deaths, 2) << "it was not reached";
  EXPECT_LE(deaths, 3);
}

INSTANTIATE_TEST_SUITE_P(All, CrashPointsTest, testing::ValuesIn(AllCases()), [](const auto& info) {
  return absl::StrCat(info.param.device.binary, "_", info.param.point);
});

}  // namespace
}  // namespace bulkhead::integration
