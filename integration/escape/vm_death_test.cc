// A vmm, or its launcher, that is killed while a guest writes its disk: within a second nothing is
// left of the VM. No process, no namespace, no memory file, nobody who has the disk open, no
// socket's file, no control group.
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/escape/surroundings.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kTimeout = absl::Seconds(30);
constexpr absl::Duration kLimit = absl::Seconds(1);

// A file of any kind, a namespace among them.
using Inode = std::pair<dev_t, ino_t>;

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (isdigit(static_cast<unsigned char>(name[0]))) pids.push_back(std::stoi(name));
  }
  return pids;
}

// What a process has open, and its namespaces: with their names.
std::map<Inode, std::string> FilesOf(pid_t pid) {
  std::map<Inode, std::string> files;
  for (const char* const folder : {"fd", "ns"}) {
    std::error_code ignored;
    for (const auto& entry :
         std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/", folder), ignored)) {
      struct stat file = {};
      if (stat(entry.path().c_str(), &file) != 0) continue;
      files[{file.st_dev, file.st_ino}] = std::filesystem::read_symlink(entry.path(), ignored);
    }
  }
  return files;
}

class VmDeathTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    // Any host has cgroup v2, but perhaps without controllers, which all belong to v1.
    ASSERT_EQ(unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    const std::string root = MakeTempFolder();
    ASSERT_EQ(mount("none", root.c_str(), "cgroup2", 0, nullptr), 0);
    groups_ = absl::StrCat(root, "/bulkhead-", name_);
    ASSERT_EQ(mkdir(groups_.c_str(), 0755), 0);
    sockets_ = MakeTempFolder();
    config_ = WriteTempFile(
        absl::StrCat(name_, ".textproto"),
        absl::StrCat("sandbox { cgroup: \"", groups_, "\" }\n", "control_socket: \"", sockets_,
                     "/control.sock\"\n", "monitor_socket: \"", sockets_, "/monitor\"\n",
                     "devices { name: \"vsock\" binary: \"",
                     DataFile("devices/virtio_vsock/virtio_vsock"), "\" arg: \"--cid=3\" ",
                     "resources { name: \"host\" vsock { socket: \"", sockets_,
                     "/vsock\" } } }\n"));
    disk_ = WriteTempFile(absl::StrCat(name_, ".disk"), std::string(1 << 20, '\0'));
    ASSERT_NO_FATAL_FAILURE(StartVm());
  }

  void TearDown() override {
    EXPECT_EQ(rmdir(groups_.c_str()), 0) << "a control group is left";
    umount2(std::filesystem::path(groups_).parent_path().c_str(), MNT_DETACH);
  }

  void StartVm() {
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {absl::StrCat("--config=", config_), absl::StrCat("--name=", name_), "--memory=64M",
         "--no-reboot", absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
         "--cmdline=run=disk_storm until_key=1",
         absl::StrCat("--device-dir=", DataFile("devices/uart16550")), "--console=stdio",
         absl::StrCat("--device=name=disk,binary=", DataFile("devices/virtio_blk/virtio_blk"),
                      ",file:disk=", disk_),
         absl::StrCat("--device=name=rng,binary=", DataFile("devices/virtio_rng/virtio_rng"))});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput("storm begins", kTimeout).ok()) << vm_->log();
    EXPECT_EQ(Left().size(), 8u);  // three sockets, the vmm's group, those of four devices
    absl::SleepFor(absl::Milliseconds(200));  // under load
  }

  // Sockets, locks, control groups.
  std::vector<std::string> Left() const {
    std::vector<std::string> left;
    for (const std::string& folder : {sockets_, groups_}) {
      for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        if (folder == sockets_ || entry.is_directory()) left.push_back(entry.path());
      }
    }
    return left;
  }

  // Those of a dead vmm are this process's, as on a host they are init's. The first is the vmm.
  static void ReapOrphans(const std::vector<pid_t>& processes) {
    for (size_t i = 1; i < processes.size(); ++i) waitpid(processes[i], nullptr, WNOHANG);
  }

  // Kills `pid`. Then nothing may be left of the VM, after kLimit.
  void KillAndCheck(pid_t pid) {
    std::vector<pid_t> processes = {vm_->pid(), vm_->HelperPid("vmm-launcher"),
                                    vm_->HelperPid("vmm-init"), vm_->HelperPid("vmm-vsock")};
    for (const VmProcess::Child& device : vm_->Children()) processes.push_back(device.pid);
    ASSERT_EQ(processes.size(), 8u);
    const std::map<Inode, std::string> own = FilesOf(getpid());
    std::map<Inode, std::string> files;
    std::vector<UniqueFd> pid_fds;
    for (const pid_t process : processes) {
      pid_fds.emplace_back(static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
      ASSERT_TRUE(pid_fds.back().ok()) << process;
      for (const auto& [inode, name] : FilesOf(process)) {
        // Those that everybody has: /dev/null, /proc, the host's namespaces; and anonymous inodes,
        // of which the kernel has one.
        if (own.count(inode) == 0 && !absl::StartsWith(name, "/dev/") && name != "/proc" &&
            !absl::StartsWith(name, "anon_inode:")) {
          files.emplace(inode, name);
        }
      }
    }
    const absl::Time deadline = absl::Now() + kLimit;
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    for (size_t i = 0; i < pid_fds.size(); ++i) {
      pollfd dead = {.fd = pid_fds[i].get(), .events = POLLIN, .revents = 0};
      while (poll(&dead, 1, 1) == 0 && absl::Now() < deadline) ReapOrphans(processes);
      EXPECT_NE(dead.revents & POLLIN, 0) << "process " << i << " of the VM lives";
    }
    while (!Left().empty() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_THAT(Left(), IsEmpty());
    ReapOrphans(processes);
    exit_ = vm_->WaitForExit(kTimeout)->ToString();
    for (const pid_t process : AllProcesses()) {
      if (process == getpid()) continue;
      for (const auto& [inode, name] : FilesOf(process)) {
        EXPECT_EQ(files.count(inode), 0u) << "process " << process << " has " << name;
      }
    }
    EXPECT_GE(files.size(), 20u);  // what was looked for
  }

  const std::string name_ = absl::StrCat("death-", getpid());
  std::string disk_, groups_, sockets_, config_;
  std::unique_ptr<VmProcess> vm_;
  std::string exit_;
};

TEST_F(VmDeathTest, OfAKilledVmmNothingIsLeftAndTheVmCanBeStartedAgain) {
  ASSERT_NO_FATAL_FAILURE(KillAndCheck(vm_->pid()));
  EXPECT_EQ(exit_, "killed by signal 9 (Killed)");
  // The disk is free.
  ASSERT_NO_FATAL_FAILURE(StartVm());
  EXPECT_TRUE(VmClient(sockets_ + "/control.sock").GetStatus().ok());
  ASSERT_TRUE(vm_->Signal(SIGTERM).ok());
  EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 6");
  for (int i = 0; i < 5000 && !Left().empty(); ++i) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(Left(), IsEmpty());
}

TEST_F(VmDeathTest, WhatALaterVmOfThatNameHasStays) {
  const std::string control = sockets_ + "/control.sock";
  ASSERT_EQ(unlink(control.c_str()), 0);
  ASSERT_TRUE((std::ofstream(control) << "of another VM").flush().good());
  ASSERT_TRUE(vm_->Signal(SIGKILL).ok());
  EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "killed by signal 9 (Killed)");
  const std::string monitor = sockets_ + "/monitor";
  for (int i = 0; i < 5000 && access(monitor.c_str(), F_OK) == 0; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(ReadFile(control), "of another VM");
  EXPECT_NE(access(monitor.c_str(), F_OK), 0);
  // The groups are left to the other VM, which uses them again.
  EXPECT_EQ(Left().size(), 6u);
  for (const std::string& left : Left()) {
    for (int i = 0; i < 5000 && rmdir(left.c_str()) != 0 && errno == EBUSY; ++i) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
}

TEST_F(VmDeathTest, AKilledLauncherEndsTheVm) {
  ASSERT_NO_FATAL_FAILURE(KillAndCheck(vm_->HelperPid("vmm-launcher")));
  EXPECT_EQ(exit_, "exit code 1");
  EXPECT_THAT(vm_->log(), HasSubstr("launcher"));
}

}  // namespace
}  // namespace bulkhead::integration
