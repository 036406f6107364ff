// A guest gives up pages and takes them back without a break, while the balloon's process is killed
// again and again, and at each of its crash points: no request is lost, and none is acted on once
// the guest has its answer. Targets of the operator reach the guest all the same.

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/storm/killer.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(3);
constexpr uint64_t kPage = 4096;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kRam = 64 * kMiB;

class BalloonTest : public testing::Test {
 protected:
  void Start(const std::string& crash_point = "", const std::string& size = "") {
    const std::string config = absl::StrCat(
        "memory: \"64M\" on_reset: EXIT\nkernel { path: \"",
        DataFile("kernel_images/baremetal/guest.elf"), "\" cmdline: \"run=balloon\" }\n",
        "devices { name: \"console\" binary: \"uart16550\" resources { name: \"console\" ",
        "console { standard_streams: true } } }\n",
        "devices { name: \"balloon\" binary: \"virtio_balloon\" arg: \"--crash_point=", crash_point,
        "\" restart { max_crashes: -1 min_backoff: \"1ms\" max_backoff: \"1ms\" } ",
        "resources { name: \"target\" balloon { size: \"", size, "\" } } }\n");
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {"--config=" + WriteTempFile("vm.textproto", config), "--control=" + control_});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput("balloon ready", kTimeout).ok()) << vm_->log();
  }

  // The guest says that it has given up so much.
  void AwaitActual(uint64_t bytes) {
    const absl::Time deadline = absl::Now() + kTimeout;
    while (absl::Now() < deadline) {
      const absl::StatusOr<v1::Balloon> balloon = client_.GetBalloon();
      ASSERT_TRUE(balloon.ok()) << balloon.status() << vm_->log();
      if (balloon->actual_bytes() == bytes) return;
      absl::SleepFor(absl::Milliseconds(20));
    }
    FAIL() << "the guest does not say that it has given up " << bytes << " bytes\n"
           << vm_->log() << vm_->output();
  }

  // `report` of the guest: that the device has kept what it was told, unless it was stopped.
  void Finish(absl::string_view report = " refused=0") {
    const absl::StatusOr<v1::Balloon> balloon = client_.SetBalloon(kPage);
    ASSERT_TRUE(balloon.ok()) << balloon.status();
    const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
    ASSERT_TRUE(exit.ok()) << exit.status() << vm_->log() << vm_->output();
    EXPECT_EQ(exit->ToString(), "exit code 0") << vm_->log() << vm_->output();
    EXPECT_TRUE(absl::StrContains(vm_->output(), "BULKHEAD-PASS")) << vm_->output();
    EXPECT_TRUE(absl::StrContains(vm_->output(), report)) << vm_->output();
  }

  const std::string control_ = absl::StrCat(MakeTempFolder(), "/vm.sock");
  const VmClient client_{control_};
  std::unique_ptr<VmProcess> vm_;
};

TEST_F(BalloonTest, TheTargetReachesTheGuestAndWhatItGivesIsShown) {
  ASSERT_NO_FATAL_FAILURE(Start("", "16M"));
  ASSERT_NO_FATAL_FAILURE(AwaitActual(16 * kMiB));
  const absl::StatusOr<v1::Balloon> set = client_.SetBalloon(20 * kMiB + 100);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->device(), "balloon");
  EXPECT_EQ(set->target_bytes(), 20 * kMiB);
  EXPECT_EQ(set->memory_bytes(), kRam);
  ASSERT_NO_FATAL_FAILURE(AwaitActual(20 * kMiB));
  EXPECT_EQ(client_.SetBalloon(kRam + 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client_.GetBalloon()->target_bytes(), 20 * kMiB);

  // While there is no process.
  ASSERT_TRUE(client_.StopDevice("balloon").ok());
  EXPECT_TRUE(client_.SetBalloon(24 * kMiB).ok());
  ASSERT_EQ(client_.RestartDevice("balloon").status(), absl::OkStatus()) << vm_->log();
  ASSERT_NO_FATAL_FAILURE(AwaitActual(24 * kMiB));
  // What the guest has said survives the process.
  ASSERT_EQ(client_.RestartDevice("balloon").status(), absl::OkStatus()) << vm_->log();
  ASSERT_NO_FATAL_FAILURE(AwaitActual(24 * kMiB));
  Finish(" refused=");
}

TEST_F(BalloonTest, NoRequestIsLostOrActedOnLateWhileTheProcessIsKilled) {
  ASSERT_NO_FATAL_FAILURE(Start());
  constexpr uint64_t kKills = 30;
  Killer killer(*vm_,
                {.names = {"virtio_balloon"},
                 .min_interval = absl::Milliseconds(10),
                 .max_interval = absl::Milliseconds(300)},
                kKills);
  const absl::Time deadline = absl::Now() + kTimeout;
  uint64_t targets = 0;
  while (killer.hits() < kKills && absl::Now() < deadline) {
    EXPECT_TRUE(client_.SetBalloon((2 + ++targets % 50) * kPage).ok());
    absl::SleepFor(absl::Milliseconds(20));
  }
  killer.Stop();
  EXPECT_EQ(killer.hits(), kKills) << vm_->log();
  EXPECT_TRUE(client_.SetBalloon(33 * kMiB).ok());
  ASSERT_NO_FATAL_FAILURE(AwaitActual(33 * kMiB));
  Finish();
  printf("%lu kills, %lu targets; %s\n", killer.hits(), targets,
         vm_->output().substr(vm_->output().find("balloon rounds")).c_str());
}

// The second process dies at the point; the third one goes on.
TEST_F(BalloonTest, ADeathAtAnyCrashPointLosesAndRepeatsNothing) {
  const std::string binary = DataFile("devices/virtio_balloon/virtio_balloon");
  const std::vector<std::string> points =
      absl::StrSplit(OutputOf(binary + " --crash_point=list"), '\n', absl::SkipEmpty());
  int tried = 0;
  for (const std::string& point : points) {
    // Those of register accesses and resets are the same in all devices: crash_points_test.
    const bool is_here = absl::StartsWith(point, "balloon_") || absl::StartsWith(point, "queue_") ||
                         absl::StartsWith(point, "attach_") ||
                         absl::StartsWith(point, "after_doorbell_");
    if (!is_here || absl::StartsWith(point, "queue_begin_")) continue;
    // In the middle of the work, too.
    for (const int count : {1, 5}) {
      if (count > 1 && !absl::StartsWith(point, "balloon_") && !absl::StartsWith(point, "queue_")) {
        continue;
      }
      SCOPED_TRACE(absl::StrCat(point, ":", count));
      ++tried;
      ASSERT_NO_FATAL_FAILURE(Start(absl::StrCat(point, ":", count, ":2")));
      ASSERT_TRUE(client_.KillProcessOf("balloon"));
      const absl::Time deadline = absl::Now() + kTimeout;
      for (uint64_t i = 0; client_.GenerationOf("balloon") < 3 && absl::Now() < deadline; ++i) {
        EXPECT_TRUE(client_.SetBalloon((2 + i % 50) * kPage).ok());
        absl::SleepFor(absl::Milliseconds(20));
      }
      EXPECT_EQ(client_.GenerationOf("balloon"), 3u) << "it was not reached";
      EXPECT_TRUE(client_.SetBalloon(33 * kMiB).ok());
      ASSERT_NO_FATAL_FAILURE(AwaitActual(33 * kMiB));
      Finish();
      vm_.reset();
    }
  }
  EXPECT_GE(tried, 15);
}

}  // namespace
}  // namespace bulkhead::integration
