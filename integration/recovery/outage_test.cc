// A Linux guest does not notice that it waits for a device, nor that it was paused: its clock
// stands meanwhile, its watchdogs are silent, and its I/O is right.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Minutes(3);

std::string TempPath(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", name);
}

std::string Vmctl(const std::string& arguments) {
  const std::string command = absl::StrCat(DataFile("tools/vmctl/vmctl"), " --socket ",
                                           TempPath("vm.sock"), " ", arguments, " 2>&1");
  FILE* const pipe = popen(command.c_str(), "r");
  std::string output;
  char bytes[4096];
  while (const size_t n = fread(bytes, 1, sizeof(bytes), pipe)) output.append(bytes, n);
  EXPECT_EQ(pclose(pipe), 0) << output;
  return output;
}

void AwaitState(const std::string& state) {
  const absl::Time deadline = absl::Now() + kLimit;
  std::string status;
  while (absl::Now() < deadline) {
    status = Vmctl("status");
    if (status.find(state) != std::string::npos) return;
    absl::SleepFor(absl::Milliseconds(50));
  }
  FAIL() << "not " << state << ": " << status;
}

class OutageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream disk(TempPath("disk.img"), std::ios::binary);
    for (int i = 0; i < (4 << 20); ++i) disk.put(static_cast<char>(i * 7 + i / 511));
    disk.close();
    ASSERT_EQ(
        system(absl::StrCat("md5sum < ", TempPath("disk.img"), " > ", TempPath("sum")).c_str()), 0);
    std::ofstream(TempPath("vm.textproto"))
        << "control_socket: \"" << TempPath("vm.sock") << "\"\n"
        << "devices { name: \"console\" binary: \"uart16550\"\n"
        << "  resources { name: \"console\" console { standard_streams: true } } }\n"
        << "devices { name: \"disk\" binary: \"virtio_blk\" access_timeout: \"20m\"\n"
        << "  heartbeat { interval: \"0\" }\n"
        << "  restart { min_backoff: \"30s\" max_backoff: \"30s\" max_crashes: -1 }\n"
        << "  resources { name: \"disk\" file { path: \"" << TempPath("disk.img") << "\" } } }\n";
    absl::StatusOr<std::unique_ptr<GuestShell>> booted =
        GuestShell::Boot({"--config=" + TempPath("vm.textproto"), "--memory=256M", "--cpus=2"});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = *std::move(booted);
  }

  std::string Run(const std::string& command) {
    const absl::StatusOr<std::string> output = guest_->Run(command, kLimit);
    EXPECT_TRUE(output.ok()) << output.status();
    return output.value_or("");
  }
  absl::Duration Uptime() {
    double seconds = 0;
    const std::string text = Run("cat /proc/uptime");
    EXPECT_TRUE(absl::SimpleAtod(std::vector<std::string>(absl::StrSplit(text, ' '))[0], &seconds))
        << text;
    return absl::Seconds(seconds);
  }
  pid_t DiskProcess() const {
    for (const VmProcess::Child& child : guest_->vm().Children()) {
      if (child.name == "virtio_blk") return child.pid;
    }
    return -1;
  }
  void ExpectNothingNoticed() {
    std::string sum;
    std::ifstream(TempPath("sum")) >> sum;
    EXPECT_THAT(Run("echo 3 > /proc/sys/vm/drop_caches; md5sum < /dev/vda"), HasSubstr(sum));
    const absl::StatusOr<std::string> errors = guest_->KernelErrors();
    ASSERT_TRUE(errors.ok()) << errors.status();
    EXPECT_EQ(*errors, "");
  }

  std::unique_ptr<GuestShell> guest_;
};

TEST_F(OutageTest, APauseStopsTheGuestsClock) {
  printf("clock source: %s\n",
         Run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").c_str());
  const absl::Duration before = Uptime();
  const absl::Time begin = absl::Now();
  Vmctl("pause");
  absl::SleepFor(absl::Seconds(12));
  Vmctl("resume");
  const absl::Duration outside = absl::Now() - begin;
  const absl::Duration inside = Uptime() - before;
  printf("%.1f s outside, %.1f s inside\n", absl::ToDoubleSeconds(outside),
         absl::ToDoubleSeconds(inside));
  EXPECT_LT(inside, absl::Seconds(8));
  EXPECT_GE(inside, absl::ZeroDuration());
  ExpectNothingNoticed();
}

TEST_F(OutageTest, AnAccessThatWaitsForHalfAMinuteIsNotNoticed) {
  // No child of the shell: busybox's takes the end of one, while it waits for input, for the end.
  Run("(while [ ! -e /tmp/stop ]; do cat /sys/bus/virtio/devices/virtio0/status; done "
      ">/dev/null 2>&1 &)");
  const absl::Duration before = Uptime();
  const absl::Time begin = absl::Now();
  const pid_t disk = DiskProcess();
  ASSERT_GT(disk, 0);
  ASSERT_EQ(kill(disk, SIGSTOP), 0);
  AwaitState("the guest waits for device 'disk'");
  absl::SleepFor(absl::Seconds(30));
  ASSERT_EQ(kill(disk, SIGCONT), 0);
  AwaitState("RUNNING");
  const absl::Duration outside = absl::Now() - begin;
  const absl::Duration inside = Uptime() - before;
  printf("%.1f s outside, %.1f s inside\n", absl::ToDoubleSeconds(outside),
         absl::ToDoubleSeconds(inside));
  EXPECT_LT(inside, absl::Seconds(20));
  Run("touch /tmp/stop");
  ExpectNothingNoticed();
}

TEST_F(OutageTest, AProcessThatIsAwayForHalfAMinuteIsNotNoticed) {
  Run("(dd if=/dev/vda of=/dev/null bs=64k >/dev/null 2>&1 &)");
  const absl::Duration before = Uptime();
  const absl::Time begin = absl::Now();
  // The second in a row is restarted after the backoff. No access waits: only requests in queues.
  const pid_t first = DiskProcess();
  ASSERT_EQ(kill(first, SIGKILL), 0);
  const absl::Time deadline = absl::Now() + kLimit;
  pid_t second = -1;
  while ((second = DiskProcess()) <= 0 || second == first) {
    ASSERT_LT(absl::Now(), deadline);
    absl::SleepFor(absl::Milliseconds(5));
  }
  while (Vmctl("devices").find(absl::StrCat(second)) == std::string::npos) {
    ASSERT_LT(absl::Now(), deadline);
  }
  ASSERT_EQ(kill(second, SIGKILL), 0);
  AwaitState("the guest waits for device 'disk'");
  AwaitState("RUNNING");
  const absl::Duration outside = absl::Now() - begin;
  EXPECT_GT(outside, absl::Seconds(20));
  const absl::Duration inside = Uptime() - before;
  printf("%.1f s outside, %.1f s inside\n", absl::ToDoubleSeconds(outside),
         absl::ToDoubleSeconds(inside));
  EXPECT_LT(inside, absl::Seconds(20));
  ExpectNothingNoticed();
}

}  // namespace
}  // namespace bulkhead::integration
