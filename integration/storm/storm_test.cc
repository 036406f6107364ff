// Device processes die at random moments under a guest that checks every byte. How it is with
// thousands of them: tools/bench storm.

#include "integration/storm/storm.h"

#include <string>

#include "absl/strings/str_join.h"
#include "gtest/gtest.h"

namespace bulkhead::integration {
namespace {

using Way = KillerOptions::Way;

void ExpectGood(const absl::StatusOr<StormReport>& report, uint64_t kills) {
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GE(report->kills, kills);
  EXPECT_GT(report->requests, 0u);
  EXPECT_EQ(report->failed, 0u);
  EXPECT_EQ(report->wrong_bytes, 0u);
  EXPECT_EQ(absl::StrJoin(report->problems, "\n"), "");
}

#ifdef BULKHEAD_STORM_LINUX

TEST(LinuxStormTest, TheDiskServiceIsKilled) {
  StormOptions options{.kills = 20};
  options.killer = {.names = {"virtio_blk"}, .max_interval = absl::Milliseconds(300)};
  ExpectGood(RunLinuxStorm(options), options.kills);
}

TEST(LinuxStormTest, TheDiskServiceIsUpgraded) {
  StormOptions options{.kills = 10};
  options.killer = {.way = Way::kUpgrade, .names = {}, .max_interval = absl::Milliseconds(200)};
  ExpectGood(RunLinuxStorm(options), options.kills);
}

TEST(LinuxStormTest, AllServicesAreKilledAtOnce) {
  StormOptions options{.kills = 15};
  options.killer = {.way = Way::kKillAll,
                    .names = {},
                    .min_interval = absl::Milliseconds(100),
                    .max_interval = absl::Milliseconds(600)};
  ExpectGood(RunLinuxStorm(options), options.kills);
}

#else

TEST(BareMetalStormTest, TheDiskServiceIsKilled) {
  StormOptions options{.kills = 100};
  options.killer.names = {"virtio_blk"};
  ExpectGood(RunBareMetalStorm(options), options.kills);
}

TEST(BareMetalStormTest, WithIndirectDescriptorsAndEventIndex) {
  StormOptions options{.kills = 60, .guest_options = {"indirect=1", "event_index=1", "seed=2"}};
  options.killer.names = {"virtio_blk"};
  ExpectGood(RunBareMetalStorm(options), options.kills);
}

TEST(BareMetalStormTest, OneRequestAtATime) {
  StormOptions options{.kills = 40, .guest_options = {"depth=1", "seed=3"}};
  options.killer.names = {"virtio_blk"};
  ExpectGood(RunBareMetalStorm(options), options.kills);
}

TEST(BareMetalStormTest, WithAWarmSpareThatIsHitToo) {
  StormOptions options{.kills = 100, .spare = true};
  options.killer.names = {"virtio_blk"};
  ExpectGood(RunBareMetalStorm(options), options.kills);
}

TEST(BareMetalStormTest, TheDiskServiceHangs) {
  StormOptions options{.kills = 5};
  options.killer = {
      .way = Way::kStop, .names = {"virtio_blk"}, .max_interval = absl::Milliseconds(300)};
  ExpectGood(RunBareMetalStorm(options), options.kills);
}

TEST(BareMetalStormTest, TheDiskServiceIsUpgraded) {
  StormOptions options{.kills = 100};
  options.killer = {.way = Way::kUpgrade, .names = {}, .max_interval = absl::Milliseconds(20)};
  ExpectGood(RunBareMetalStorm(options), options.kills);
}

TEST(BareMetalStormTest, AllServicesAreKilledAtOnce) {
  StormOptions options{.kills = 60};
  options.killer.way = Way::kKillAll;
  ExpectGood(RunBareMetalStorm(options), options.kills);
}

#endif

}  // namespace
}  // namespace bulkhead::integration
