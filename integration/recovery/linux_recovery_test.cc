// What an operator sees: the device services of a Linux guest die, hang and are restarted, one
// after the other, through vmctl; the guest goes on, and its devices work afterwards.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"

namespace bulkhead::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Seconds(60);

// vmctl against the VM of this test.
CommandResult Vmctl(const std::string& arguments) {
  return RunCommand(absl::StrCat(DataFile("tools/vmctl/vmctl"), " --socket ", TempPath("vm.sock"),
                                 " ", arguments));
}

// The device's line in `vmctl devices`.
std::string Line(const std::string& device) {
  const std::string table = Vmctl("devices").output;
  for (absl::string_view line : absl::StrSplit(table, '\n')) {
    if (line.substr(0, device.size() + 1) == device + " ") return std::string(line);
  }
  return absl::StrCat("no device ", device, " in:\n", table);
}

// Waits until the device's line has all of `words`.
void AwaitLine(const std::string& device, const std::vector<std::string>& words) {
  const absl::Time deadline = absl::Now() + kLimit;
  std::string line;
  while (absl::Now() < deadline) {
    line = Line(device);
    bool all = true;
    for (const std::string& word : words) all = all && line.find(word) != std::string::npos;
    if (all) return;
    absl::SleepFor(absl::Milliseconds(20));
  }
  FAIL() << device << " did not become " << ::testing::PrintToString(words) << ": " << line;
}

class LinuxRecoveryTest : public ::testing::Test {
 protected:
  // Boots with these devices (beside the console) in text format.
  void Boot(const std::string& devices, const std::string& supervision) {
    supervision_ = supervision;
    std::ofstream(TempPath("vm.textproto"))
        << "control_socket: \"" << TempPath("vm.sock") << "\"\n"
        << Device("console", "uart16550",
                  "resources { name: \"console\" console { standard_streams: true } }")
        << devices;
    absl::StatusOr<std::unique_ptr<GuestShell>> booted =
        GuestShell::Boot({"--config=" + TempPath("vm.textproto"), "--memory=256M", "--cpus=2"});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = *std::move(booted);
  }

  std::string Device(const std::string& name, const std::string& binary,
                     const std::string& resource) const {
    return absl::StrCat("devices { name: \"", name, "\" binary: \"", binary, "\"\n", supervision_,
                        resource, " }\n");
  }

  std::string Disk() {
    const std::string path = TempPath("disk.img");
    std::mt19937_64 random(1);
    std::ofstream out(path, std::ios::binary);
    for (int i = 0; i < (4 << 20) / 8; ++i) {
      const uint64_t word = random();
      out.write(reinterpret_cast<const char*>(&word), sizeof(word));
    }
    return absl::StrCat("resources { name: \"disk\" file { path: \"", path, "\" } }");
  }

  std::string InGuest(const std::string& command) {
    const absl::StatusOr<std::string> output = guest_->Run(command, kLimit);
    EXPECT_TRUE(output.ok()) << output.status();
    return output.value_or("");
  }

  // All three devices do their work.
  void ExpectAllWork() {
    EXPECT_EQ(InGuest("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/vda | cut -c1-64"),
              checksum_);
    EXPECT_EQ(InGuest("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c"), "64");
    std::string lines = "line 1";
    for (int i = 2; i <= 40; ++i) absl::StrAppend(&lines, "\nline ", i);
    EXPECT_EQ(InGuest("i=1; while [ $i -le 40 ]; do echo line $i; i=$((i+1)); done"), lines);
  }

  pid_t PidOf(const std::string& binary) {
    const pid_t pid = guest_->vm().PidOf(binary);
    EXPECT_NE(pid, kNoProcess) << binary;
    return pid;
  }

  std::string supervision_;
  std::string checksum_;
  std::unique_ptr<GuestShell> guest_;
};

struct Service {
  const char* device;
  const char* binary;
};
constexpr Service kServices[] = {
    {"disk0", "virtio_blk"}, {"rng0", "virtio_rng"}, {"console", "uart16550"}};

TEST_F(LinuxRecoveryTest, EachServiceIsKilledStoppedAndRestarted) {
  supervision_ = "  heartbeat { interval: \"500ms\" misses: 6 }\n";
  Boot(Device("disk0", "virtio_blk", Disk()) + Device("rng0", "virtio_rng", ""), supervision_);
  ASSERT_NE(guest_, nullptr);
  checksum_ = InGuest("sha256sum < /dev/vda | cut -c1-64");
  for (const Service& service : kServices) {
    SCOPED_TRACE(service.device);
    pid_t pid = PidOf(service.binary);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    AwaitLine(service.device, {"RUNNING", " 2 "});
    EXPECT_NE(PidOf(service.binary), pid);
    ExpectAllWork();

    pid = PidOf(service.binary);
    ASSERT_EQ(kill(pid, SIGSTOP), 0);
    AwaitLine(service.device, {"RUNNING", " 3 "});
    ExpectAllWork();

    pid = PidOf(service.binary);
    const CommandResult restarted = Vmctl(absl::StrCat("device restart ", service.device));
    EXPECT_EQ(restarted.exit_code, 0) << restarted.output;
    EXPECT_NE(PidOf(service.binary), pid);
    AwaitLine(service.device, {"RUNNING", " 4 "});
    ExpectAllWork();
  }
  // The story, told in order.
  const CommandResult events = Vmctl("events");
  EXPECT_EQ(events.exit_code, 0);
  EXPECT_THAT(events.output, AllOf(HasSubstr("killed by signal 9"), HasSubstr("disk0"),
                                   HasSubstr("rng0"), HasSubstr("console"), HasSubstr("RUNNING")));
  const CommandResult shown = Vmctl("device show disk0");
  EXPECT_THAT(shown.output, AllOf(HasSubstr("killed by signal 9"), HasSubstr("1af4")));
  // A dead service holds nobody up at the end.
  EXPECT_EQ(guest_->KernelErrors().value_or("unknown"), "");
  const absl::StatusOr<ExitInfo> exit = guest_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

TEST_F(LinuxRecoveryTest, AServiceThatCrashesAtEveryStartFailsAndIsMended) {
  // A script that fails at once while `broken` exists. Replacing the binary would change nothing:
  // the vmm starts successors from the file that it has open.
  const std::string service = DataFile("devices/virtio_rng/virtio_rng");
  const std::string broken = TempPath("broken");
  const std::string binary = TempPath("breakable");
  std::ofstream(binary) << "#!/bin/sh\n[ ! -e " << broken << " ] || exit 1\nexec " << service
                        << " \"$@\"\n";
  std::filesystem::permissions(binary, static_cast<std::filesystem::perms>(0755));
  supervision_ =
      "  restart { max_crashes: 3 crash_window: \"60s\" min_backoff: \"10ms\" max_backoff: "
      "\"20ms\" }\n";
  // In a sandbox no script runs.
  Boot("sandbox { off: true }\n" + Device("disk0", "virtio_blk", Disk()) +
           Device("rng0", binary, ""),
       supervision_);
  ASSERT_NE(guest_, nullptr);
  checksum_ = InGuest("sha256sum < /dev/vda | cut -c1-64");
  std::ofstream(broken) << "yes";
  ASSERT_EQ(kill(PidOf("virtio_rng"), SIGKILL), 0);
  AwaitLine("rng0", {"FAILED"});
  // The guest is as responsive as ever; the device's accesses read all ones at once.
  EXPECT_EQ(InGuest("sha256sum < /dev/vda | cut -c1-64"), checksum_);
  EXPECT_EQ(InGuest("echo still here"), "still here");

  const CommandResult hopeless = Vmctl("device restart rng0");
  EXPECT_NE(hopeless.exit_code, 0);
  const CommandResult mended = Vmctl(absl::StrCat("device restart rng0 --binary ", service));
  EXPECT_EQ(mended.exit_code, 0) << mended.output;
  AwaitLine("rng0", {"RUNNING"});
  ExpectAllWork();
  const absl::StatusOr<ExitInfo> exit = guest_->Leave();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

TEST_F(LinuxRecoveryTest, PausedStoppedRebootedAndPoweredOffByTheButton) {
  Boot(Device("disk0", "virtio_blk", Disk()) + Device("rng0", "virtio_rng", ""), "");
  ASSERT_NE(guest_, nullptr);
  checksum_ = InGuest("sha256sum < /dev/vda | cut -c1-64");
  EXPECT_THAT(Vmctl("status").output, HasSubstr("RUNNING"));

  ASSERT_EQ(Vmctl("pause").exit_code, 0);
  EXPECT_THAT(Vmctl("status").output, HasSubstr("PAUSED"));
  ASSERT_TRUE(guest_->vm().Type("echo typed''while paused\n").ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      guest_->vm().WaitForOutput("typedwhile paused", absl::Milliseconds(500)).status()));
  ASSERT_EQ(Vmctl("resume").exit_code, 0);
  EXPECT_TRUE(guest_->vm().WaitForOutput("typedwhile paused", kLimit).ok());
  ExpectAllWork();

  // Stopped, the device's registers read all ones; started again, it is as it was.
  ASSERT_EQ(Vmctl("device stop rng0").exit_code, 0);
  EXPECT_THAT(Line("rng0"), HasSubstr("STOPPED"));
  ASSERT_EQ(Vmctl("device start rng0").exit_code, 0);
  EXPECT_THAT(Line("rng0"), HasSubstr("RUNNING"));
  ExpectAllWork();

  // A function-level reset by the guest, with the driver away, as its administrator does it.
  EXPECT_EQ(InGuest("f=$(basename $(readlink -f /sys/block/vda/device/..)) && cd /sys/bus/pci && "
                    "echo $f > drivers/virtio-pci/unbind && echo 1 > devices/$f/reset && "
                    "echo $f > drivers/virtio-pci/bind && cd / && echo done"),
            "done");
  ExpectAllWork();

  EXPECT_THAT(Vmctl("pci").output, AllOf(HasSubstr("00:01.0"), HasSubstr("1af4")));
  EXPECT_THAT(Vmctl("metrics").output, HasSubstr("bulkhead_device_"));
  EXPECT_EQ(guest_->KernelErrors().value_or("unknown"), "");

  ASSERT_EQ(Vmctl("shutdown").exit_code, 0);
  EXPECT_TRUE(guest_->vm().WaitForOutput("BULKHEAD-POWER-BUTTON", kLimit).ok());
  const absl::StatusOr<ExitInfo> exit = guest_->vm().WaitForExit(kLimit);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 0");
}

}  // namespace
}  // namespace bulkhead::integration
