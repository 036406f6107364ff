// No call of the control plane lies on any data path: with every thread stopped that is neither a
// vCPU nor the data plane of a device, the guest's disk I/O goes on.

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

std::vector<pid_t> Threads(pid_t process) {
  std::vector<pid_t> threads;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", process, "/task"), ignored)) {
    threads.push_back(std::stoi(entry.path().filename()));
  }
  return threads;
}

std::string NameOf(pid_t process, pid_t thread) {
  std::string name;
  std::getline(std::ifstream(absl::StrCat("/proc/", process, "/task/", thread, "/comm")), name);
  return name;
}

// Stops one thread, and no other, until Release().
bool Hold(pid_t thread) {
  if (ptrace(PTRACE_SEIZE, thread, nullptr, nullptr) != 0) return false;
  if (ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr) != 0) return false;
  int status = 0;
  return waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status);
}

void Release(pid_t thread) { ptrace(PTRACE_DETACH, thread, nullptr, nullptr); }

absl::Time LastWrite(const std::string& path) {
  struct stat info = {};
  stat(path.c_str(), &info);
  return absl::TimeFromTimespec(info.st_mtim);
}

TEST(ControlThreadsTest, IoGoesOnWhileAllOfThemAreStopped) {
  const std::string disk = absl::StrCat(::testing::TempDir(), "/disk.img");
  std::ofstream(disk).flush();
  ASSERT_EQ(truncate(disk.c_str(), 4 << 20), 0);
  const absl::StatusOr<std::unique_ptr<VmProcess>> started = VmProcess::Start(
      {"--kernel=" + DataFile("kernel_images/baremetal/guest.elf"), "--memory=64M",
       "--cmdline=run=disk_storm requests=100000000", "--disk=path=" + disk, "--no-reboot",
       absl::StrCat("--control=", ::testing::TempDir(), "/vm.sock")});
  ASSERT_TRUE(started.ok()) << started.status();
  VmProcess& vm = **started;
  ASSERT_TRUE(vm.WaitForOutput("storm begins", absl::Seconds(60)).ok());

  std::vector<pid_t> held;
  int vcpus = 0;
  for (const pid_t thread : Threads(vm.pid())) {
    if (absl::StartsWith(NameOf(vm.pid(), thread), "vcpu")) {
      ++vcpus;
    } else if (Hold(thread)) {
      held.push_back(thread);
    }
  }
  EXPECT_EQ(vcpus, 1);
  const std::vector<VmProcess::Child> devices = vm.Children();
  EXPECT_EQ(devices.size(), 2u);
  for (const VmProcess::Child& device : devices) {
    for (const pid_t thread : Threads(device.pid)) {
      // The first thread is the data plane; it gives writes to another one, or to workers of the
      // kernel's io_uring.
      const std::string name = NameOf(device.pid, thread);
      if (thread == device.pid || name == "disk-io" || absl::StartsWith(name, "iou-")) continue;
      if (Hold(thread)) held.push_back(thread);
    }
  }
  // The vmm's main thread, monitor, supervisors and gRPC; the devices' gRPC.
  EXPECT_GT(held.size(), 10u);

  // From now on the control plane stands still; the disk is still written.
  for (int round = 0; round < 5; ++round) {
    const absl::Time before = LastWrite(disk);
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (LastWrite(disk) == before && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_NE(LastWrite(disk), before) << "the guest's I/O stands still";
  }
  for (const pid_t thread : held) Release(thread);
  ASSERT_TRUE(vm.Signal(SIGTERM).ok());
  const absl::StatusOr<ExitInfo> exit = vm.WaitForExit(absl::Seconds(30));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 6") << vm.log();
}

}  // namespace
}  // namespace bulkhead::integration
