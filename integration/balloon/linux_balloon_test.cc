// An unmodified Debian kernel with a balloon: what it gives up, and what it reports as free, the
// host has again; it gets it back when it needs it, and nothing is lost while the balloon's process
// is killed.

#include <signal.h>
#include <stdint.h>
#include <stdio.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/balloon/guest_ram_use.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Minutes(5);
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kRam = 512 * kMiB;

#define GUEST(...)                                                             \
  ({                                                                           \
    const absl::StatusOr<std::string> guest_output = guest_->Run(__VA_ARGS__); \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status();                   \
    *guest_output;                                                             \
  })

class LinuxBalloonTest : public testing::Test {
 protected:
  void Boot() {
    absl::StatusOr<std::unique_ptr<GuestShell>> booted =
        GuestShell::Boot({"--name=balloon", "--memory=512M", "--balloon", "--cpus=1"});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = *std::move(booted);
    GUEST("mount -t tmpfs -o size=450M none /mnt");
    EXPECT_EQ(GUEST("cat /sys/bus/virtio/drivers/virtio_balloon/virtio*/device"), "0x0005");
  }

  uint64_t RamUse() { return GuestRamUse(guest_->vm().pid()); }
  // A file of the guest's memory that holds no zeroes.
  void Write(const std::string& name, uint64_t size_bytes) {
    GUEST(absl::StrCat("yes 'what a guest has in its memory' | head -c ", size_bytes, " > /mnt/",
                       name),
          kTimeout);
  }

  // Until the guest has given up what it is to, and no more.
  void AwaitActual(uint64_t bytes) {
    const absl::Time deadline = absl::Now() + kTimeout;
    uint64_t last = 0;
    while (absl::Now() < deadline) {
      const absl::StatusOr<v1::Balloon> balloon = client_.GetBalloon();
      ASSERT_TRUE(balloon.ok()) << balloon.status() << "\n" << guest_->vm().log();
      last = balloon->actual_bytes();
      if (last == bytes) return;
      absl::SleepFor(absl::Milliseconds(100));
    }
    FAIL() << "the guest has given up " << last << " bytes instead of " << bytes << "\n"
           << guest_->vm().log();
  }
  template <typename Condition>
  bool Await(Condition condition) {
    const absl::Time deadline = absl::Now() + kTimeout;
    while (absl::Now() < deadline) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(200));
    }
    return condition();
  }

  CommandResult Vmctl(const std::string& arguments) {
    return RunCommand(absl::StrCat(DataFile("tools/vmctl/vmctl"), " --socket ",
                                   ControlSocketOf("balloon"), " ", arguments));
  }

  void ExpectHealthyEnd() {
    EXPECT_EQ(KernelErrors(), "");
    const absl::StatusOr<ExitInfo> exit = guest_->Leave();
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->ToString(), "exit code 0") << guest_->vm().log();
  }
  std::string KernelErrors() { return guest_->KernelErrors().value_or("the guest is silent"); }

  std::unique_ptr<GuestShell> guest_;
  const VmClient client_{ControlSocketOf("balloon")};
};

TEST_F(LinuxBalloonTest, TheHostHasWhatTheGuestGivesUpAndGivesItBack) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  Write("big", 250 * kMiB);
  EXPECT_GE(RamUse(), 250 * kMiB);
  GUEST("rm /mnt/big");
  Write("kept", 40 * kMiB);
  const std::string sum = GUEST("md5sum < /mnt/kept", kTimeout);

  const CommandResult asked = Vmctl("balloon 350M");
  EXPECT_EQ(asked.exit_code, 0) << asked.output;
  EXPECT_THAT(asked.output, HasSubstr("it is to give up 350 MiB\n"));
  ASSERT_NO_FATAL_FAILURE(AwaitActual(350 * kMiB));
  EXPECT_THAT(Vmctl("balloon").output,
              HasSubstr("of 512 MiB the guest has given up 350 MiB; it is to give up 350 MiB\n"));
  const uint64_t inflated = RamUse();
  EXPECT_LE(inflated, kRam - 350 * kMiB);
  int free_kib = 0;
  ASSERT_TRUE(absl::SimpleAtoi(GUEST("awk '/^MemFree/ {print $2}' /proc/meminfo"), &free_kib));
  EXPECT_LT(free_kib, 162 << 10);

  EXPECT_EQ(Vmctl("balloon 0").exit_code, 0);
  ASSERT_NO_FATAL_FAILURE(AwaitActual(0));
  Write("big", 250 * kMiB);
  EXPECT_GE(RamUse(), 290 * kMiB);
  EXPECT_EQ(GUEST("md5sum < /mnt/kept", kTimeout), sum);
  printf("inflated by 350 of 512 MiB, RAM takes %lu MiB of the host\n", inflated / kMiB);
  ExpectHealthyEnd();
}

TEST_F(LinuxBalloonTest, NothingIsLostWhileTheProcessIsKilledUnderInflation) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  Write("kept", 60 * kMiB);
  const std::string sum = GUEST("md5sum < /mnt/kept", kTimeout);
  // FAILED after five ends in a minute: so few. Each at another place of the work.
  constexpr int kKills = 4;
  for (int i = 0; i < kKills; ++i) {
    ASSERT_TRUE(client_.SetBalloon((i % 2 == 0 ? 300 : 50) * kMiB).ok());
    absl::SleepFor(absl::Milliseconds(30 + 100 * i));
    const pid_t pid = client_.PidOf("balloon");
    ASSERT_GT(pid, 0);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    ASSERT_TRUE(Await([&] {
      const pid_t now = client_.PidOf("balloon");
      return now > 0 && now != pid;
    }));
  }
  ASSERT_TRUE(client_.SetBalloon(320 * kMiB).ok());
  ASSERT_NO_FATAL_FAILURE(AwaitActual(320 * kMiB));
  EXPECT_LE(RamUse(), kRam - 320 * kMiB);
  EXPECT_EQ(GUEST("md5sum < /mnt/kept", kTimeout), sum);
  ASSERT_TRUE(client_.SetBalloon(0).ok());
  ASSERT_NO_FATAL_FAILURE(AwaitActual(0));
  EXPECT_EQ(client_.GetDevice("balloon")->generation(), kKills + 1u);
  ExpectHealthyEnd();
}

TEST_F(LinuxBalloonTest, MemoryThatTheGuestFreesIsReported) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  Write("big", 250 * kMiB);
  const uint64_t used = RamUse();
  EXPECT_GE(used, 250 * kMiB);
  GUEST("rm /mnt/big");
  EXPECT_TRUE(Await([&] { return RamUse() + 200 * kMiB < used; }))
      << RamUse() / kMiB << " of " << used / kMiB << " MiB";
  printf("of %lu MiB, RAM takes %lu of the host after the guest freed 250\n", used / kMiB,
         RamUse() / kMiB);
  EXPECT_EQ(client_.GetBalloon()->actual_bytes(), 0u);
  // It is there when the guest needs it.
  Write("big", 250 * kMiB);
  EXPECT_GE(RamUse(), 250 * kMiB);
  ExpectHealthyEnd();
}

TEST_F(LinuxBalloonTest, AGuestThatRunsOutOfMemoryTakesSomeBack) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  ASSERT_TRUE(client_.SetBalloon(300 * kMiB).ok());
  ASSERT_NO_FATAL_FAILURE(AwaitActual(300 * kMiB));
  Write("big", 220 * kMiB);  // more than there is
  EXPECT_LT(client_.GetBalloon()->actual_bytes(), 300 * kMiB);
  EXPECT_EQ(client_.GetBalloon()->target_bytes(), 300 * kMiB);
  EXPECT_EQ(GUEST("dmesg | grep -c 'Killed process' || true"), "0");
  GUEST("rm /mnt/big");
  ASSERT_TRUE(client_.SetBalloon(0).ok());
  ASSERT_NO_FATAL_FAILURE(AwaitActual(0));
}

}  // namespace
}  // namespace bulkhead::integration
