// A disk for which the host has no space, with on-error=pause: the VM stands still until the
// operator has made room, and the guest sees no error and no wrong byte, whatever happens to the
// disk's process.

#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kTimeout = absl::Seconds(120);
constexpr int kBlocks = 512;  // of 4 KiB, of which half have room

// A file system in memory for half of the disk, in a mount namespace of this process.
class SmallFileSystem {
 public:
  SmallFileSystem() : folder_(MakeTempFolder()) {
    // Only once: this process has one thread then.
    static const bool separate =
        unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    EXPECT_TRUE(separate) << "needs root";
    EXPECT_EQ(mount("none", folder_.c_str(), "tmpfs", 0, "size=1m"), 0);
  }
  ~SmallFileSystem() { umount2(folder_.c_str(), MNT_DETACH); }

  // A sparse disk that has not enough room to be filled.
  std::string MakeDisk() const {
    const std::string path = absl::StrCat(folder_, "/disk.img");
    EXPECT_EQ(WriteFile(path), 0);
    return path;
  }
  void MakeRoom() const {
    EXPECT_EQ(mount("none", folder_.c_str(), "tmpfs", MS_REMOUNT, "size=16m"), 0);
  }

 private:
  static int WriteFile(const std::string& path) {
    const int fd = creat(path.c_str(), 0644);
    const int result = ftruncate(fd, kBlocks * 4096);
    close(fd);
    return result;
  }

  const std::string folder_;
};

class DiskErrorsTest : public testing::Test {
 protected:
  void Boot(const std::string& name, const std::string& orders, const std::string& options) {
    absl::StatusOr<std::unique_ptr<VmProcess>> vm =
        VmProcess::Start({absl::StrCat("--name=", name), "--console=stdio", "--no-reboot",
                          absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                          absl::StrCat("--cmdline=run=disk_storm blocks=", kBlocks, " ", orders),
                          absl::StrCat("--disk=path=", small_.MakeDisk(), ",", options)});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    client_ = std::make_unique<VmClient>(ControlSocketOf(name));
    ASSERT_TRUE(vm_->WaitForOutput("storm begins", kTimeout).ok()) << vm_->log();
  }

  // Waits until the VM is paused, and returns why.
  std::string AwaitPause() {
    for (const absl::Time end = SteadyNow() + kTimeout; SteadyNow() < end;
         absl::SleepFor(absl::Milliseconds(20))) {
      const absl::StatusOr<v1::VmStatus> status = client_->GetStatus();
      if (!status.ok()) return status.status().ToString();
      if (status->state() == v1::VmStatus::PAUSED) return status->pause_reason();
    }
    return "it is not paused";
  }

  void ExpectCleanEnd() {
    ASSERT_TRUE(vm_->WaitForOutput("storm ends", kTimeout).ok()) << vm_->output() << vm_->log();
    EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 0") << vm_->output();
    EXPECT_THAT(vm_->output(), HasSubstr(" errors 0"));
    EXPECT_THAT(vm_->output(), HasSubstr("BULKHEAD-PASS"));
  }

  SmallFileSystem small_;
  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<VmClient> client_;
};

TEST_F(DiskErrorsTest, TheVmWaitsForRoomAndTheGuestNoticesNothing) {
  Boot("waits", "requests=4000", "on-error=pause");
  if (HasFatalFailure()) return;
  EXPECT_THAT(AwaitPause(), AllOf(HasSubstr("device 'disk0': a write at byte "),
                                  HasSubstr("No space left on device")));
  // Without room the same again.
  ASSERT_TRUE(client_->Resume().ok());
  EXPECT_THAT(AwaitPause(), HasSubstr("No space left on device"));
  bool told = false;
  const auto events = client_->PastEvents();
  ASSERT_TRUE(events.ok()) << events.status();
  for (const v1::Event& event : *events) {
    told |= event.vm_state().state() == v1::VmStatus::PAUSED &&
            event.vm_state().reason().find("disk0") != std::string::npos;
  }
  EXPECT_TRUE(told);

  small_.MakeRoom();
  ASSERT_TRUE(client_->Resume().ok());
  ExpectCleanEnd();
}

TEST_F(DiskErrorsTest, WhatWaitsSurvivesTheDisksProcess) {
  Boot("survives", "requests=4000", "on-error=pause");
  if (HasFatalFailure()) return;
  EXPECT_THAT(AwaitPause(), HasSubstr("No space left on device"));
  for (int i = 0; i < 3; ++i) {
    const pid_t before = client_->PidOf("disk0");
    ASSERT_EQ(kill(before, SIGKILL), 0);
    for (const absl::Time end = SteadyNow() + kTimeout; SteadyNow() < end;) {
      const pid_t now = client_->PidOf("disk0");
      if (now != kNoProcess && now != before) break;
      absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_THAT(AwaitPause(), HasSubstr("No space left on device"));
  }
  ASSERT_TRUE(client_->RestartDevice("disk0").ok());
  small_.MakeRoom();
  ASSERT_TRUE(client_->KillProcessOf("disk0"));
  ASSERT_TRUE(client_->Resume().ok());
  ExpectCleanEnd();
}

TEST_F(DiskErrorsTest, TheGuestGetsWhatTheOperatorCannotMend) {
  Boot("gives_up", "requests=4000 retry=1", "on-error=pause");
  if (HasFatalFailure()) return;
  EXPECT_THAT(AwaitPause(), HasSubstr("No space left on device"));
  ASSERT_TRUE(client_->Resume(/*report_errors=*/true).ok());
  // The guest asks again.
  EXPECT_THAT(AwaitPause(), HasSubstr("No space left on device"));
  small_.MakeRoom();
  ASSERT_TRUE(client_->Resume().ok());
  ASSERT_TRUE(vm_->WaitForOutput("storm ends", kTimeout).ok()) << vm_->output() << vm_->log();
  EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 0") << vm_->output();
  EXPECT_THAT(vm_->output(), AllOf(HasSubstr(" errors "), Not(HasSubstr(" errors 0"))));
}

TEST_F(DiskErrorsTest, ByDefaultTheGuestGetsTheError) {
  Boot("reports", "requests=4000 retry=1 progress=100", "on-error=report");
  if (HasFatalFailure()) return;
  ASSERT_TRUE(vm_->WaitForLog("No space left on device", kTimeout).ok());
  EXPECT_EQ(client_->GetStatus()->state(), v1::VmStatus::RUNNING);
  small_.MakeRoom();
  ASSERT_TRUE(vm_->WaitForOutput("storm ends", kTimeout).ok()) << vm_->output();
  EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 0");
}

}  // namespace
}  // namespace bulkhead::integration
