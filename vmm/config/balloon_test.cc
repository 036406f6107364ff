#include "vmm/config/balloon.h"

#include <unistd.h>

#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/balloon_link.h"
#include "vmm/config/balloon_switch.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

std::vector<BalloonTarget> ReadAll(int fd) {
  BalloonTarget targets[16];
  const ssize_t size = read(fd, targets, sizeof(targets));
  return {targets, targets + (size < 0 ? 0 : static_cast<size_t>(size) / sizeof(targets[0]))};
}

TEST(BalloonSwitchTest, EachProcessHearsTheTargetAndEachChange) {
  BalloonSwitch balloon(16 * kMiB, 64 * kMiB);
  const int first = balloon.ForNextProcess();
  EXPECT_EQ(balloon.Set(20 * kMiB + 4095), absl::OkStatus());
  EXPECT_EQ(balloon.Set(20 * kMiB), absl::OkStatus());
  EXPECT_THAT(ReadAll(first), ElementsAre(16 * kMiB, 20 * kMiB));
  EXPECT_EQ(balloon.target(), 20 * kMiB);
  EXPECT_THAT(ReadAll(balloon.ForNextProcess()), ElementsAre(20 * kMiB));
}

TEST(BalloonSwitchTest, MoreThanThereMayBeIsRefused) {
  BalloonSwitch balloon(0, 64 * kMiB);
  EXPECT_EQ(balloon.Set(64 * kMiB), absl::OkStatus());
  const absl::Status refused = balloon.Set(64 * kMiB + 1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("at most 67108864"));
  EXPECT_EQ(balloon.target(), 64 * kMiB);
}

TEST(BalloonSwitchTest, AProcessThatDoesNotReadKeepsTheLastTarget) {
  BalloonSwitch balloon(0, 64 * kMiB);
  balloon.ForNextProcess();
  absl::Status status;
  for (uint64_t i = 1; i < 1'000'000 && status.ok(); ++i) status = balloon.Set(i % 2 * kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(ReadAll(balloon.ForNextProcess()), ElementsAre(balloon.target()));
}

TEST(ProblemOfBalloonTest, MemoryThatCannotBeFreedOrIsChargedToADeviceHasNone) {
  VmSpec spec;
  spec.devices.emplace_back().name = "disk0";
  EXPECT_EQ(ProblemOfBalloon(spec), "");
  spec.ram_backing.huge_pages = RamBacking::HugePages::kTransparent;
  EXPECT_EQ(ProblemOfBalloon(spec), "");
  spec.devices[0].cgroup_limits.memory_bytes = 64 * kMiB;
  EXPECT_THAT(ProblemOfBalloon(spec), HasSubstr("device \"disk0\" has a limit of memory"));
  spec.ram_backing.huge_pages = RamBacking::HugePages::k2M;
  EXPECT_THAT(ProblemOfBalloon(spec), HasSubstr("pool of huge pages"));
}

}  // namespace
}  // namespace bulkhead::vmm
