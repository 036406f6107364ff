// Programs of devices on a file system that does not answer.
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/config/program_file.h"
#include "vmm/process/process_monitor.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);  // never passes in a test that works

class NoObserver : public ProcessObserver {
 public:
  void OnOutput(absl::string_view) override {}
  void OnViolation(absl::string_view) override {}
  void OnExit(const ExitInfo&) override {}
  void OnOutputEnd() override {}
};

// A copy of /bin/sh on FUSE.
class StalledProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(unshare(CLONE_NEWNS), 0) << "run as root: this test mounts a file system";
    ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    monitor_ = *ProcessMonitor::Create(*Launcher::Start());  // in that namespace
    const std::string program = absl::StrCat(testing::TempDir(), "/sh");
    std::ofstream(program) << std::ifstream("/bin/sh").rdbuf();
    const std::string mountpoint = absl::StrCat(testing::TempDir(), "/fuse");
    mkdir(mountpoint.c_str(), 0700);
    path_ = mountpoint + "/disk.img";
    const std::string script = absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"),
                                            "/integration/host_faults/fuse_server.py");
    int in[2];
    int out[2];
    ASSERT_EQ(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
    server_ = fork();
    if (server_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      execl("/usr/bin/python3", "python3", script.c_str(), mountpoint.c_str(), program.c_str(),
            nullptr);
      _exit(127);
    }
    commands_.reset(in[1]);
    answers_.reset(out[0]);
    close(in[0]);
    close(out[1]);
    ASSERT_EQ(Answer(), "mounted\n");
  }
  void TearDown() override {
    Tell("go\n");
    monitor_.reset();
    umount2(path_.substr(0, path_.rfind('/')).c_str(), MNT_DETACH);
    commands_.reset();
    waitpid(server_, nullptr, 0);
  }

  void Tell(const std::string& command) {
    ASSERT_EQ(write(commands_.get(), command.data(), command.size()),
              static_cast<ssize_t>(command.size()));
    ASSERT_EQ(Answer(), command);
  }
  std::string Answer() {
    char line[100];
    const ssize_t size = read(answers_.get(), line, sizeof(line));
    return std::string(line, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  }
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> RunProgram(absl::Duration timeout) {
    return Run(*program_, "exit 3", timeout);
  }
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> RunScript(const std::string& script) {
    return Run(*ProgramFile::Open("/bin/sh"), script, kLong);
  }
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> Run(const ProgramFile& shell,
                                                        const std::string& script,
                                                        absl::Duration timeout) {
    int output[2];
    if (pipe2(output, O_CLOEXEC) != 0) abort();
    UniqueFd read_end(output[0]);
    const UniqueFd write_end(output[1]);
    fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
    return monitor_->Start({.binary = shell,
                            .args = {"-c", script},
                            .environment = {},
                            .descriptors = {monitor_->null_device(), write_end.get()},
                            .sandbox = {}},
                           std::move(read_end), std::make_shared<NoObserver>(),
                           {.timeout = timeout, .cancelled = nullptr});
  }

  std::unique_ptr<ProcessMonitor> monitor_;

  std::string path_;
  absl::StatusOr<ProgramFile> program_ = absl::UnknownError("");
  UniqueFd commands_;
  UniqueFd answers_;
  pid_t server_ = 0;
};

TEST_F(StalledProgramTest, KeepsNobodyAndIsKilledWhenItComesTooLate) {
  auto bystander = RunScript("echo up; exec sleep 1000");
  ASSERT_TRUE(bystander.ok()) << bystander.status();
  program_ = ProgramFile::Open(path_);
  ASSERT_TRUE(program_.ok()) << program_.status();
  Tell("stall\n");
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunProgram(absl::Milliseconds(300)).status()));
  // Deaths are noticed, and other programs start, also more than one.
  (*bystander)->Kill();
  EXPECT_TRUE((*bystander)->WaitForExit(kLong).ok());
  for (int i = 0; i < 2; ++i) {
    auto other = RunScript("exit 4");
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_TRUE((*other)->WaitForExit(kLong).ok());
  }
  // Killed as soon as its time is over, it does not stand in the way of the next, which hangs, too.
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunProgram(absl::Milliseconds(100)).status()));

  Tell("go\n");
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> process = absl::UnknownError("");
  for (const absl::Time latest = SteadyNow() + kLong; !process.ok() && SteadyNow() < latest;
       absl::SleepFor(absl::Milliseconds(10))) {
    process = RunProgram(kLong);
  }
  ASSERT_TRUE(process.ok()) << process.status();
  const auto exit = (*process)->WaitForExit(kLong);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "exit code 3");
  // The late one was reaped before: the server is the only child that is left.
  int status;
  EXPECT_EQ(waitpid(-1, &status, WNOHANG), 0);
}

TEST_F(StalledProgramTest, IsNotWaitedForAtTheEnd) {
  program_ = ProgramFile::Open(path_);
  ASSERT_TRUE(program_.ok()) << program_.status();
  Tell("stall\n");
  std::thread starter([this] { EXPECT_TRUE(absl::IsUnavailable(RunProgram(kLong).status())); });
  absl::SleepFor(absl::Milliseconds(100));  // it hangs by now
  monitor_->KillAll();
  starter.join();
  monitor_.reset();  // the test's own time limit judges
}

TEST_F(StalledProgramTest, IsNotWaitedForWhenItIsOpened) {
  EXPECT_TRUE(ProgramFile::OpenWithin(path_, kLong).ok());
  Tell("stall\n");
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(ProgramFile::OpenWithin(path_, absl::Milliseconds(100)).status()));
}

}  // namespace
}  // namespace bulkhead::vmm
