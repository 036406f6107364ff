// The vmm ends in bounded time once it is asked to, even if its devices and its terminal hang.
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "base/testing/files.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

extern char** environ;

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);
// Five seconds by the vmm's own count, on a machine that may be busy. Before, these never ended.
constexpr absl::Duration kEndTimeout = absl::Seconds(30);

std::vector<std::string> BusyGuest() {
  return {
      "--no-reboot",
      absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
      "--cmdline=run=watch_device",
      absl::StrCat("--device=name=rig,binary=", DataFile("devices/rig/rig")),
  };
}

bool Exists(const std::string& path) {
  struct stat file;
  return lstat(path.c_str(), &file) == 0;
}

TEST(VmEndTest, ADeviceThatFloodsItsControlConnectionDoesNotKeepTheVm) {
  std::vector<std::string> flags = BusyGuest();
  const std::string input = absl::StrCat(testing::TempDir(), "/vm_end.input");
  std::ofstream(input) << std::string(512, 'x');  // one sector
  flags.push_back(absl::StrCat(
      "--device=name=liar,binary=", DataFile("devices/host/testdata/misbehaving_device"),
      ",arg=--misbehaviour=flood_soon,rofile:input=", input));
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(flags);
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("watching", kTimeout).ok()) << (*vm)->log();
  // In the middle of the flood and of a heartbeat; it is five seconds until the process is killed.
  absl::SleepFor(absl::Seconds(2));
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  const absl::StatusOr<ExitInfo> exit = (*vm)->WaitForExit(kEndTimeout);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 6");
}

// The thread of that name.
pid_t ThreadOf(pid_t process, const std::string& name) {
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", process, "/task"))) {
    std::string comm;
    std::ifstream(task.path() / "comm") >> comm;
    if (comm == name) return std::stoi(task.path().filename());
  }
  return -1;
}

// A supervisor's thread stands still, for any reason.
TEST(VmEndTest, ASupervisorThatStandsStillDoesNotKeepTheVm) {
  int master_fd, slave_fd;
  ASSERT_EQ(openpty(&master_fd, &slave_fd, nullptr, nullptr, nullptr), 0);
  const UniqueFd master(master_fd);
  const UniqueFd slave(slave_fd);
  termios before;
  ASSERT_EQ(tcgetattr(slave_fd, &before), 0);

  const std::string folder = testing::TempDir();
  const std::string log = absl::StrCat(folder, "/vm_end.log");
  const std::string socket = absl::StrCat(folder, "/vm_end.sock");
  std::string binary = DataFile("vmm/vmm");
  std::vector<std::string> args = {binary};
  for (const std::string& flag : BusyGuest()) args.push_back(flag);
  args.push_back(absl::StrCat("--control=", socket));
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, slave_fd, STDIN_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = 0;
  ASSERT_EQ(posix_spawn(&pid, binary.c_str(), &actions, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  const absl::StatusOr<PidFd> process = PidFd::Open(pid);
  ASSERT_TRUE(process.ok());

  // It has made the terminal raw once it is about to let the guest run.
  const absl::Time deadline = absl::Now() + kTimeout;
  termios mode = before;
  while ((mode.c_lflag & ICANON) != 0 && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(20));
    ASSERT_EQ(tcgetattr(slave_fd, &mode), 0);
  }
  ASSERT_EQ(mode.c_lflag & ICANON, 0u);
  const pid_t thread = ThreadOf(pid, "device-rig");
  ASSERT_GT(thread, 0);
  ASSERT_EQ(ptrace(PTRACE_SEIZE, thread, nullptr, nullptr), 0);
  ASSERT_EQ(ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr), 0);
  int status;
  ASSERT_EQ(waitpid(thread, &status, __WALL), thread);

  ASSERT_TRUE(process->Signal(SIGTERM).ok());
  // The end of a traced thread is its tracer's to take first.
  const absl::Time thread_deadline = absl::Now() + kEndTimeout;
  while (waitpid(thread, &status, __WALL | WNOHANG) == 0 && absl::Now() < thread_deadline) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  const absl::StatusOr<ExitInfo> exit = process->Wait(kEndTimeout);
  if (!exit.ok()) (void)process->Signal(SIGKILL);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 6");
  EXPECT_FALSE(Exists(socket));
  ASSERT_EQ(tcgetattr(slave_fd, &mode), 0);
  EXPECT_EQ(mode.c_lflag, before.c_lflag);
  EXPECT_THAT(ReadFile(log), HasSubstr("the VM's end waits for device 'rig' (idle)"));
  EXPECT_THAT(ReadFile(log), HasSubstr("has not ended within"));
  EXPECT_THAT(ReadFile(log), HasSubstr("the VM was ending: stopped"));
}

}  // namespace
}  // namespace bulkhead::integration
