// A Linux guest whose disk has no process for a while, from seconds to minutes: a vCPU waits in an
// access of the device's registers and requests are in flight. Or the guest is paused as long. Once
// it goes on, its kernel has noticed nothing: no watchdog has spoken, the clock has not gone on
// without it, and each byte of the disk is right.
//
// usage: outage_table_test [DURATION...]    (1s 10s 30s 120s 600s, if none is given)

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kSlowly = absl::Minutes(3);
// An access waits this long before the VM is paused, and the host may be busy.
constexpr absl::Duration kUnpaused = absl::Seconds(1);
constexpr absl::Duration kSlack = absl::Seconds(5);

class OutageTest : public ::testing::TestWithParam<absl::Duration> {
 protected:
  // `backoff`: between the second death of the disk's process and its successor.
  void Boot(absl::Duration backoff) {
    const std::string disk = TempPath("outage.img");
    std::ofstream(disk, std::ios::trunc).flush();
    ASSERT_EQ(truncate(disk.c_str(), 16 << 20), 0);
    std::ofstream(TempPath("vm.textproto"))
        << "control_socket: \"" << TempPath("vm.sock") << "\"\n"
        << "devices { name: \"console\" binary: \"uart16550\"\n"
        << "  resources { name: \"console\" console { standard_streams: true } } }\n"
        << "devices { name: \"disk0\" binary: \"virtio_blk\" access_timeout: \"1h\"\n"
        << "  heartbeat { interval: \"0\" }\n"
        << "  restart { max_crashes: -1 min_backoff: \"" << backoff << "\" max_backoff: \""
        << backoff << "\" }\n"
        << "  resources { name: \"disk\" file { path: \"" << disk << "\" } } }\n";
    absl::StatusOr<std::unique_ptr<GuestShell>> booted =
        GuestShell::Boot({"--config=" + TempPath("vm.textproto"), "--memory=256M", "--cpus=2"});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = *std::move(booted);
    client_ = std::make_unique<VmClient>(TempPath("vm.sock"));
    // Requests, and accesses: a read of this file reads a register of the device.
    InGuest("diskstorm /dev/vda 2 128 > /tmp/storm & echo $! > /tmp/storm.pid");
    InGuest(
        "while cat /sys/bus/virtio/devices/virtio0/status > /dev/null; do "
        "echo >> /tmp/accesses; done &");
    InGuest("until [ -s /tmp/storm ] && [ -s /tmp/accesses ]; do sleep 0.1; done");
  }

  std::string InGuest(const std::string& command) {
    const absl::StatusOr<std::string> output = guest_->Run(command, kSlowly);
    EXPECT_TRUE(output.ok()) << output.status();
    return output.value_or("");
  }

  absl::Duration GuestUptime() {
    double seconds = 0;
    EXPECT_TRUE(absl::SimpleAtod(InGuest("cut -d ' ' -f 1 /proc/uptime"), &seconds));
    return absl::Seconds(seconds);
  }

  // Waits until the disk is RUNNING in a process other than `old`.
  void AwaitSuccessorOf(pid_t old, absl::Duration limit) {
    const absl::Time deadline = absl::Now() + limit;
    while (absl::Now() < deadline) {
      // One answer has both: in two, a dying process could look like its successor.
      const absl::StatusOr<v1::Device> device = client_->GetDevice("disk0");
      if (device.ok() && device->state() == v1::Device::RUNNING && device->pid() != old) return;
      absl::SleepFor(absl::Milliseconds(20));
    }
    FAIL() << "no successor within " << limit;
  }

  // After an outage: the guest's log, its clock, its disk.
  void ExpectUnnoticed(absl::Duration uptime_before, absl::Time before, absl::Duration outage) {
    const absl::Duration guest_time = GuestUptime() - uptime_before;
    const absl::Duration host_time = absl::Now() - before;
    EXPECT_EQ(guest_->KernelErrors().value_or("unknown"), "");
    EXPECT_EQ(InGuest("dmesg | grep -wE 'lockup|stalls?|blocked for more|Call Trace' || true"), "");
    EXPECT_LT(guest_time, host_time - outage + kUnpaused + kSlack)
        << "the guest's clock went on during an outage of " << outage << ", " << host_time
        << " of the host's time";
    InGuest(
        "kill $(cat /tmp/storm.pid); while kill -0 $(cat /tmp/storm.pid) 2>/dev/null; do "
        "sleep 0.1; done");
    EXPECT_THAT(InGuest("tail -n 1 /tmp/storm"), HasSubstr(" failed=0 wrong_bytes=0 "));
    const absl::StatusOr<ExitInfo> exit = guest_->Leave();
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->ToString(), "exit code 0");
  }

  std::unique_ptr<GuestShell> guest_;
  std::unique_ptr<VmClient> client_;
};

TEST_P(OutageTest, NoProcessUntilARestartThatWaits) {
  Boot(/*backoff=*/GetParam());
  if (HasFatalFailure()) return;
  const absl::Duration uptime = GuestUptime();
  const absl::Time start = absl::Now();
  // The first restart follows at once, the second waits.
  const pid_t first = client_->PidOf("disk0");
  ASSERT_EQ(kill(first, SIGKILL), 0);
  AwaitSuccessorOf(first, kSlowly);
  const pid_t second = client_->PidOf("disk0");
  const absl::Time killed = absl::Now();
  ASSERT_EQ(kill(second, SIGKILL), 0);
  AwaitSuccessorOf(second, 2 * GetParam() + kSlowly);
  const absl::Duration outage = absl::Now() - killed;
  EXPECT_GE(outage, 0.7 * GetParam()) << "the restart did not wait";
  ExpectUnnoticed(uptime, start, outage);
}

TEST_P(OutageTest, AProcessThatIsStoppedAndGoesOn) {
  Boot(/*backoff=*/absl::ZeroDuration());
  if (HasFatalFailure()) return;
  const absl::Duration uptime = GuestUptime();
  const absl::Time start = absl::Now();
  const pid_t process = client_->PidOf("disk0");
  ASSERT_EQ(kill(process, SIGSTOP), 0);
  absl::SleepFor(GetParam());
  ASSERT_EQ(kill(process, SIGCONT), 0);
  ExpectUnnoticed(uptime, start, GetParam());
}

TEST_P(OutageTest, APausedVm) {
  Boot(/*backoff=*/absl::ZeroDuration());
  if (HasFatalFailure()) return;
  const absl::Duration uptime = GuestUptime();
  const absl::Time start = absl::Now();
  ASSERT_TRUE(client_->Pause().ok());
  absl::SleepFor(GetParam());
  ASSERT_TRUE(client_->Resume().ok());
  ExpectUnnoticed(uptime, start, GetParam());
}

std::vector<absl::Duration>& Outages() {
  static auto& outages =
      *new std::vector<absl::Duration>{absl::Seconds(1), absl::Seconds(10), absl::Seconds(30),
                                       absl::Seconds(120), absl::Seconds(600)};
  return outages;
}

INSTANTIATE_TEST_SUITE_P(Outages, OutageTest, ::testing::ValuesIn(Outages()),
                         [](const ::testing::TestParamInfo<absl::Duration>& outage) {
                           return absl::StrCat("Of", absl::ToInt64Seconds(outage.param), "s");
                         });

bool ReadOutages(int argc, char** argv) {
  std::vector<absl::Duration> given;
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] == '-') continue;  // googletest's
    absl::Duration outage;
    if (!absl::ParseDuration(argv[i], &outage) || outage < absl::Seconds(1)) {
      std::fprintf(stderr, "outage_table_test: \"%s\" is not a duration of at least 1s\n", argv[i]);
      return false;
    }
    given.push_back(outage);
  }
  if (!given.empty()) Outages() = given;
  return true;
}

}  // namespace
}  // namespace bulkhead::integration

int main(int argc, char** argv) {
  if (!bulkhead::integration::ReadOutages(argc, argv)) return 2;
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
