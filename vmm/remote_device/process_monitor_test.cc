#include "vmm/remote_device/process_monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);  // never passes in a test that works

// Records the calls.
class Recorder : public ProcessObserver {
 public:
  void OnOutput(absl::string_view bytes) override {
    absl::MutexLock lock(&mutex_);
    output_.append(bytes.data(), bytes.size());
  }
  void OnExit(const ExitInfo& exit) override {
    absl::MutexLock lock(&mutex_);
    order_ += "exit ";
    exit_ = exit.ToString();
  }
  void OnOutputEnd() override {
    absl::MutexLock lock(&mutex_);
    order_ += "end";
  }

  std::string output() {
    absl::MutexLock lock(&mutex_);
    return output_;
  }
  std::string exit() {
    absl::MutexLock lock(&mutex_);
    return exit_;
  }
  std::string order() {
    absl::MutexLock lock(&mutex_);
    return order_;
  }
  bool WaitForOutput() {
    absl::MutexLock lock(&mutex_);
    const auto any = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !output_.empty(); };
    return mutex_.AwaitWithTimeout(absl::Condition(&any), kLong);
  }

 private:
  absl::Mutex mutex_;
  std::string output_ ABSL_GUARDED_BY(mutex_);
  std::string exit_ ABSL_GUARDED_BY(mutex_);
  std::string order_ ABSL_GUARDED_BY(mutex_);
};

class ProcessMonitorTest : public testing::Test {
 protected:
  // Runs a shell script with standard output in a pipe to the recorder.
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> RunScript(const std::string& script) {
    return Run({.binary = "/bin/sh", .args = {"-c", script}, .environment = {}, .descriptors = {}});
  }
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> Run(ProcessSpec spec) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) abort();
    UniqueFd read_end(fds[0]);
    const UniqueFd write_end(fds[1]);
    fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    spec.descriptors = {null.get(), write_end.get(), null.get()};
    return monitor_->Start(spec, std::move(read_end), recorder_);
  }

  std::shared_ptr<Recorder> recorder_ = std::make_shared<Recorder>();
  std::unique_ptr<ProcessMonitor> monitor_ = *ProcessMonitor::Create();
};

TEST_F(ProcessMonitorTest, OutputAndExitOfAProcessAreSeenInOrder) {
  auto process = RunScript("echo hello; exit 3");
  ASSERT_TRUE(process.ok()) << process.status();
  const auto exit = (*process)->WaitForExit(kLong);
  ASSERT_TRUE(exit.ok());
  EXPECT_FALSE(exit->signalled);
  EXPECT_EQ(exit->code, 3);
  EXPECT_EQ(recorder_->output(), "hello\n");
  EXPECT_EQ(recorder_->exit(), "exit code 3");
  EXPECT_EQ(recorder_->order(), "exit end");
  // Reaped: no zombie.
  EXPECT_EQ(waitpid((*process)->pid(), nullptr, WNOHANG), -1);
}

TEST_F(ProcessMonitorTest, AKilledProcessIsNoticed) {
  auto process = RunScript("echo up; exec sleep 100");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(recorder_->WaitForOutput());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*process)->WaitForExit(absl::ZeroDuration()).status()));
  (*process)->Kill();
  EXPECT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_EQ(recorder_->exit(), "killed by signal 9 (Killed)");
  (*process)->Kill();  // nobody is hit
}

TEST_F(ProcessMonitorTest, AllOutputIsSeenAlthoughTheProcessIsDead) {
  auto process = RunScript("head -c 60000 /dev/zero");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_EQ(recorder_->output().size(), 60000u);
}

TEST_F(ProcessMonitorTest, AGrandchildThatKeepsThePipeOpenKeepsNobody) {
  auto process = RunScript("sleep 5 & exit 0");
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_TRUE((*process)->WaitForExit(absl::Seconds(4)).ok());
}

TEST_F(ProcessMonitorTest, AProcessHasTheGivenDescriptorsAndEnvironmentOnly) {
  const UniqueFd leak(open("/dev/zero", O_RDONLY));  // not close-on-exec
  auto process = Run({.binary = "/bin/sh",
                      .args = {"-c", "echo $BULKHEAD_TEST; env | wc -l; ls /proc/$$/fd"},
                      .environment = {"BULKHEAD_TEST=yes", "PATH=/bin:/usr/bin"},
                      .descriptors = {}});
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  // PWD and _ are the shell's own. 10 is the shell's copy of its script, if it makes one.
  EXPECT_THAT(recorder_->output(), testing::MatchesRegex("yes\n[0-9]+\n0\n1\n2\n(10\n)?"));
}

TEST_F(ProcessMonitorTest, AProcessStartsWithNoSignalBlockedOrIgnored) {
  signal(SIGUSR1, SIG_IGN);
  sigset_t block;
  sigemptyset(&block);
  sigaddset(&block, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &block, nullptr);
  auto process = RunScript(
      "while read name value; do case $name in SigBlk:|SigIgn:) echo $value;; "
      "esac; done < /proc/$$/status");
  pthread_sigmask(SIG_UNBLOCK, &block, nullptr);
  signal(SIGUSR1, SIG_DFL);
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_EQ(recorder_->output(), "0000000000000000\n0000000000000000\n");
}

TEST_F(ProcessMonitorTest, AProcessOutlivesTheThreadThatAskedForIt) {
  std::shared_ptr<MonitoredProcess> process;
  // The kernel's parent-death signal follows the thread that forked: it must be the monitor's.
  std::thread starter([&] { process = *RunScript("echo up; exec sleep 100"); });
  starter.join();
  ASSERT_TRUE(recorder_->WaitForOutput());
  EXPECT_TRUE(absl::IsDeadlineExceeded(process->WaitForExit(absl::Milliseconds(50)).status()));
  process->Kill();
  EXPECT_TRUE(process->WaitForExit(kLong).ok());
}

TEST_F(ProcessMonitorTest, ABinaryThatIsNotThereIsAnError) {
  const auto process =
      Run({.binary = "/nowhere/x", .args = {}, .environment = {}, .descriptors = {}});
  EXPECT_EQ(process.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(process.status().message()), HasSubstr("/nowhere/x"));
  EXPECT_EQ(recorder_->order(), "");
}

TEST_F(ProcessMonitorTest, AFileThatIsNoProgramIsAnErrorAndLeavesNoZombie) {
  const auto process =
      Run({.binary = "/etc/passwd", .args = {}, .environment = {}, .descriptors = {}});
  EXPECT_FALSE(process.ok());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(ProcessMonitorTest, TheDestructorEndsWhatStillRuns) {
  auto process = RunScript("trap '' TERM; echo up; exec sleep 100");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(recorder_->WaitForOutput());
  monitor_.reset();
  EXPECT_EQ(kill((*process)->pid(), 0), -1);
  EXPECT_EQ(errno, ESRCH);
  EXPECT_EQ(recorder_->order(), "exit end");
}

}  // namespace
}  // namespace bulkhead::vmm
