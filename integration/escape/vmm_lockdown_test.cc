// What an attacker can do who has taken over the vmm itself: from a vCPU's thread, the thread that
// accepts clients and the main thread the test makes system calls that lead further. Those that
// only an attacker makes kill the vmm; others fail, and the VM goes on.
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/escape/taken_over_process.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr const char* kThreads[] = {"vcpu0", "control", ""};  // "": the main one

class VmmLockdownTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!vmm::SandboxLayers::InThisBuild().has(vmm::SandboxLayer::kVmm)) {
      GTEST_SKIP() << "this build has no lockdown";
    }
    if (geteuid() != 0) GTEST_SKIP() << "needs root, for ptrace(2)";
    ASSERT_EQ(chmod(testing::TempDir().c_str(), 0755), 0);
    disk_ = WriteTempFile("lockdown.disk", std::string(1 << 20, 'd'));
    new_file_ = TempPath("lockdown.new");
  }

  void StartVm(const std::vector<std::string>& more = {}) {
    const std::string name = absl::StrCat("lockdown-", getpid());
    std::vector<std::string> flags = {
        "--name=" + name,
        "--memory=64M",
        "--kernel=" + DataFile("kernel_images/baremetal/guest.elf"),
        "--cmdline=run=watch_device",
        absl::StrCat("--device=name=rig,binary=", DataFile("devices/rig/rig"), ",heartbeat=200ms"),
        absl::StrCat("--disk=path=", disk_)};
    flags.insert(flags.end(), more.begin(), more.end());
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput("watching", kTimeout).ok()) << vm_->log();
    client_ = std::make_unique<VmClient>(ControlSocketOf(name));
    ASSERT_TRUE(client_->GetStatus().ok());
  }
  void EndVm() {
    ASSERT_TRUE(vm_->Signal(SIGTERM).ok());
    EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 6") << vm_->log();
  }

  pid_t ThreadOf(const std::string& name) const {
    if (name.empty()) return vm_->pid();
    for (const auto& task :
         std::filesystem::directory_iterator(absl::StrCat("/proc/", vm_->pid(), "/task"))) {
      if (ReadFile(task.path() / "comm") == name + "\n") return std::stoi(task.path().filename());
    }
    return kNoProcess;
  }
  std::unique_ptr<TakenOverProcess> TakeOver(const std::string& thread) const {
    absl::StatusOr<std::unique_ptr<TakenOverProcess>> process =
        TakenOverProcess::TakeOver(ThreadOf(thread));
    EXPECT_TRUE(process.ok()) << thread << ": " << process.status();
    return process.ok() ? *std::move(process) : nullptr;
  }

  std::string disk_, new_file_;
  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<VmClient> client_;
};

TEST_F(VmmLockdownTest, EachThreadHasGivenUpWhatItDoesNotNeed) {
  ASSERT_NO_FATAL_FAILURE(StartVm());
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", vm_->pid(), "/task"))) {
    const std::string status = ReadFile(task.path() / "status");
    if (status.empty()) continue;  // it has ended
    EXPECT_THAT(status, HasSubstr("CapEff:\t0000000000000000\n"));
    EXPECT_THAT(status, HasSubstr("CapPrm:\t0000000000000000\n"));
    EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1\n"));
    EXPECT_THAT(status, HasSubstr("Seccomp:\t2\n"));
  }
  EXPECT_THAT(ReadFile(absl::StrCat("/proc/", ThreadOf("vcpu0"), "/status")),
              HasSubstr("Seccomp_filters:\t2\n"));
  EXPECT_TRUE(client_->GetStatus()->locked_down());
  EndVm();
}

TEST_F(VmmLockdownTest, WaivedItIsOff) {
  ASSERT_NO_FATAL_FAILURE(StartVm({"--sandbox-waive=vmm"}));
  EXPECT_THAT(ReadFile(absl::StrCat("/proc/", vm_->pid(), "/status")), HasSubstr("Seccomp:\t0\n"));
  EXPECT_FALSE(client_->GetStatus()->locked_down());
  EXPECT_THAT(vm_->log(), HasSubstr("it lacks vmm"));
  EndVm();
}

TEST_F(VmmLockdownTest, WhatOnlyAnAttackerDoesKillsTheVmm) {
  struct Attack {
    const char* name;
    int number;
    std::array<uint64_t, 6> arguments;
  };
  const Attack attacks[] = {
      {"execve", SYS_execve, {}},
      {"execveat", SYS_execveat, {}},
      {"fork", SYS_fork, {}},
      {"clone of a process", SYS_clone, {SIGCHLD}},
      {"ptrace", SYS_ptrace, {PTRACE_ATTACH, 1}},
      {"process_vm_readv", SYS_process_vm_readv, {1}},
      {"pidfd_getfd", SYS_pidfd_getfd, {}},
      {"socket", SYS_socket, {AF_INET, SOCK_STREAM}},
      {"connect", SYS_connect, {}},
      {"mount", SYS_mount, {}},
      {"unshare", SYS_unshare, {CLONE_NEWUSER}},
      {"setns", SYS_setns, {}},
      {"bpf", SYS_bpf, {}},
      {"io_uring_setup", SYS_io_uring_setup, {1}},
      {"executable memory",
       SYS_mmap,
       {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS}},
      {"mprotect", SYS_mprotect, {0, 4096, PROT_READ | PROT_EXEC}},
      {"init_module", SYS_init_module, {}},
      {"setuid", SYS_setuid, {0}},
  };
  int i = 0;
  for (const Attack& attack : attacks) {
    const std::string thread = kThreads[i++ % std::size(kThreads)];
    ASSERT_NO_FATAL_FAILURE(StartVm());
    const std::unique_ptr<TakenOverProcess> process = TakeOver(thread);
    ASSERT_NE(process, nullptr);
    EXPECT_EQ(process->CallWith(attack.number, attack.arguments), TakenOverProcess::kDied)
        << attack.name << " of " << thread;
    ASSERT_TRUE(process->end().has_value());
    EXPECT_EQ(WTERMSIG(*process->end()), SIGSYS) << attack.name << " of " << thread;
    if (thread.empty()) continue;  // its tracer has reaped it
    const absl::StatusOr<ExitInfo> end = vm_->WaitForExit(kTimeout);
    ASSERT_TRUE(end.ok()) << attack.name << " of " << thread << ": " << end.status();
    EXPECT_THAT(end->ToString(), HasSubstr("signal 31")) << attack.name << " of " << thread;
  }
}

TEST_F(VmmLockdownTest, OtherCallsFailAndTheVmGoesOn) {
  ASSERT_NO_FATAL_FAILURE(StartVm());
  open_how create = {};
  create.flags = O_CREAT | O_WRONLY;
  create.mode = 0600;
  for (const std::string thread : kThreads) {
    const bool is_vcpu = thread == "vcpu0";
    const std::unique_ptr<TakenOverProcess> process = TakeOver(thread);
    ASSERT_NE(process, nullptr);
    const auto path = [&process](const std::string& text) {
      return process->Put(absl::string_view(text.c_str(), text.size() + 1));
    };
    const uint64_t passwd = path("/etc/passwd");
    const uint64_t made = path(new_file_);
    const uint64_t how =
        process->Put(absl::string_view(reinterpret_cast<const char*>(&create), sizeof(create)));
    SCOPED_TRACE(thread);
    EXPECT_EQ(process->Call(SYS_openat, AT_FDCWD, made, O_CREAT | O_WRONLY, 0600), -EPERM);
    EXPECT_EQ(process->Call(SYS_openat, AT_FDCWD, path("/tmp"), O_TMPFILE | O_RDWR, 0600), -EPERM);
    EXPECT_EQ(process->Call(SYS_openat2, AT_FDCWD, made, how, sizeof(create)),
              is_vcpu ? -EPERM : -EACCES);
    EXPECT_EQ(process->Call(SYS_openat, AT_FDCWD, passwd, O_WRONLY), is_vcpu ? -EPERM : -EACCES);
    EXPECT_EQ(process->Call(SYS_openat, AT_FDCWD, path("/proc/self/mem"), O_RDWR),
              is_vcpu ? -EPERM : -EACCES);
    if (is_vcpu) {
      EXPECT_EQ(process->Call(SYS_openat, AT_FDCWD, passwd, O_RDONLY), -EPERM);
      EXPECT_EQ(process->Call(SYS_unlink, path(disk_)), -EPERM);
    }
    EXPECT_EQ(process->Call(SYS_mkdir, made, 0700), -EPERM);
    EXPECT_EQ(process->Call(SYS_symlink, passwd, made), -EPERM);
    EXPECT_EQ(process->Call(SYS_rename, passwd, made), -EPERM);
    EXPECT_EQ(process->Call(SYS_chmod, passwd, 0777), -EPERM);
    EXPECT_EQ(process->Call(SYS_truncate, passwd, 0), -EPERM);
    EXPECT_EQ(process->Call(SYS_kill, getpid(), 0), -EPERM);
    EXPECT_EQ(process->Call(SYS_tgkill, getpid(), getpid(), 0), -EPERM);
    EXPECT_EQ(process->Call(SYS_ioctl, 0, TIOCSTI, passwd), -EPERM);
    EXPECT_EQ(process->Call(SYS_prctl, PR_SET_DUMPABLE, 1), -EPERM);
    EXPECT_EQ(process->Call(SYS_clone3, 0, 0), -ENOSYS);
    process->Release();
  }
  EXPECT_NE(access(new_file_.c_str(), F_OK), 0);

  EXPECT_TRUE(client_->Pause().ok());
  EXPECT_TRUE(client_->Resume().ok());
  for (const char* const device : {"rig", "disk0"}) {
    ASSERT_TRUE(client_->KillProcessOf(device));
    EXPECT_TRUE(vm_->WaitForLog(absl::StrCat("device '", device, "' serves again"), kTimeout).ok());
  }
  const auto restarted = client_->RestartDevice("disk0", DataFile("devices/virtio_blk/virtio_blk"));
  EXPECT_TRUE(restarted.ok()) << restarted.status();
  EXPECT_TRUE(client_->GetMetrics().ok());
  EXPECT_TRUE(client_->PastEvents().ok());
  EndVm();
}

}  // namespace
}  // namespace bulkhead::integration
