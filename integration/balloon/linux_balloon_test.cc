// An unmodified Debian kernel with a balloon: what it gives up, and what it reports as free, the
// host has again; the guest gets it back when it needs it, also before it runs out of memory, and
// nothing is lost, also when the balloon's process is killed meanwhile.

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
#include "base/testing/processes.h"
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
constexpr uint64_t kBig = 100 * kMiB;
constexpr uint64_t kKept = 40 * kMiB;

#define GUEST(...)                                                             \
  ({                                                                           \
    const absl::StatusOr<std::string> guest_output = guest_->Run(__VA_ARGS__); \
    ASSERT_TRUE(guest_output.ok()) << guest_output.status();                   \
    *guest_output;                                                             \
  })

class LinuxBalloonTest : public testing::Test {
 protected:
  void Boot() {
    setvbuf(stdout, nullptr, _IOLBF, 0);
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
      const absl::StatusOr<v1::Balloon> balloon = Client().GetBalloon();
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

  // Not before the start of the vmm: the harness chooses the socket's folder then.
  static VmClient Client() { return VmClient(ControlSocketOf("balloon")); }

  std::unique_ptr<GuestShell> guest_;
};

// One guest for all: its boot takes longer than what is shown.
TEST_F(LinuxBalloonTest, TheHostHasWhatTheGuestDoesNotNeedAndNothingIsLost) {
  ASSERT_NO_FATAL_FAILURE(Boot());
  {
    SCOPED_TRACE("what the guest frees is reported");
    Write("big", kBig);
    const uint64_t used = RamUse();
    EXPECT_GE(used, kBig);
    GUEST("rm /mnt/big");
    EXPECT_TRUE(Await([&] { return RamUse() + kBig * 3 / 4 < used; }))
        << RamUse() / kMiB << " of " << used / kMiB << " MiB";
    EXPECT_EQ(Client().GetBalloon()->actual_bytes(), 0u);
    printf("of %lu MiB, RAM takes %lu of the host after the guest freed %lu\n", used / kMiB,
           RamUse() / kMiB, kBig / kMiB);
  }
  Write("kept", kKept);
  const std::string sum = GUEST("md5sum < /mnt/kept", kTimeout);
  {
    SCOPED_TRACE("what it gives up the host has, and gives it back");
    const CommandResult asked = Vmctl("balloon 250M");
    EXPECT_EQ(asked.exit_code, 0) << asked.output;
    EXPECT_THAT(asked.output, HasSubstr("it is to give up 250 MiB\n"));
    ASSERT_NO_FATAL_FAILURE(AwaitActual(250 * kMiB));
    EXPECT_THAT(Vmctl("balloon").output,
                HasSubstr("of 512 MiB the guest has given up 250 MiB; it is to give up 250 MiB\n"));
    EXPECT_LE(RamUse(), kRam - 250 * kMiB);
    printf("inflated by 250 of 512 MiB, RAM takes %lu MiB of the host\n", RamUse() / kMiB);
    int free_kib = 0;
    ASSERT_TRUE(absl::SimpleAtoi(GUEST("awk '/^MemFree/ {print $2}' /proc/meminfo"), &free_kib));
    EXPECT_LT(free_kib, 262 << 10);

    EXPECT_EQ(Vmctl("balloon 0").exit_code, 0);
    ASSERT_NO_FATAL_FAILURE(AwaitActual(0));
    Write("big", kBig);
    EXPECT_GE(RamUse(), kBig + kKept);
    GUEST("rm /mnt/big");
    EXPECT_EQ(GUEST("md5sum < /mnt/kept", kTimeout), sum);
  }
  {
    SCOPED_TRACE("kills of the process under inflation, to targets that change");
    // FAILED after five ends in a minute: so few. Each at another place of the work.
    constexpr int kKills = 4;
    int meanwhile = 0;
    for (int i = 0; i < kKills; ++i) {
      ASSERT_TRUE(Client().SetBalloon((i % 2 == 0 ? 300 : 50) * kMiB).ok());
      absl::SleepFor(absl::Milliseconds(30 + 100 * i));
      const pid_t pid = Client().PidOf("balloon");
      const absl::StatusOr<v1::Balloon> balloon = Client().GetBalloon();
      ASSERT_EQ(kill(pid, SIGKILL), 0);
      ASSERT_TRUE(balloon.ok()) << balloon.status();
      if (balloon->actual_bytes() != balloon->target_bytes()) ++meanwhile;
      printf("killed at %lu MiB, on the way to %lu\n", balloon->actual_bytes() / kMiB,
             balloon->target_bytes() / kMiB);
      ASSERT_TRUE(Await([&] {
        const pid_t now = Client().PidOf("balloon");
        return now != kNoProcess && now != pid;
      }));
    }
    EXPECT_GT(meanwhile, 0);
    ASSERT_TRUE(Client().SetBalloon(300 * kMiB).ok());
    ASSERT_NO_FATAL_FAILURE(AwaitActual(300 * kMiB));
    EXPECT_LE(RamUse(), kRam - 300 * kMiB);
    EXPECT_EQ(GUEST("md5sum < /mnt/kept", kTimeout), sum);
    EXPECT_EQ(Client().GetDevice("balloon")->generation(), kKills + 1u);
    EXPECT_EQ(guest_->KernelErrors().value_or("the guest is silent"), "");
  }
  {
    SCOPED_TRACE("a guest that runs out of memory takes some back");
    Write("big", kBig);  // more than there is
    const absl::StatusOr<v1::Balloon> balloon = Client().GetBalloon();
    ASSERT_TRUE(balloon.ok()) << balloon.status();
    EXPECT_LT(balloon->actual_bytes(), 300 * kMiB);
    EXPECT_EQ(balloon->target_bytes(), 300 * kMiB);
    printf("the guest has taken back %lu of 300 MiB\n", 300 - balloon->actual_bytes() / kMiB);
    EXPECT_EQ(GUEST("dmesg | grep -c 'Killed process' || true"), "0");
    EXPECT_EQ(GUEST("md5sum < /mnt/kept", kTimeout), sum);
    GUEST("rm /mnt/big");
    ASSERT_TRUE(Client().SetBalloon(0).ok());
    ASSERT_NO_FATAL_FAILURE(AwaitActual(0));
  }
  const absl::StatusOr<ExitInfo> exit = guest_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0") << guest_->vm().log();
}

}  // namespace
}  // namespace bulkhead::integration
