#include "vmm/process/process_monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/core_dumps.h"
#include "base/steady_time.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

constexpr SandboxLayers kPid = SandboxLayer::kPid;
constexpr SandboxLayers kUserAndPid = SandboxLayers(SandboxLayer::kPid).With(SandboxLayer::kUser);

std::string ConfinedProgram() {
  return absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"),
                      "/vmm/launcher/testing/confined_program");
}

constexpr absl::Duration kLong = absl::Seconds(30);  // never passes in a test that works

// Records the calls.
class Recorder : public ProcessObserver {
 public:
  void OnOutput(absl::string_view bytes) override {
    absl::MutexLock lock(&mutex_);
    output_.append(bytes.data(), bytes.size());
  }
  void OnViolation(absl::string_view what) override {
    absl::MutexLock lock(&mutex_);
    violation_ = std::string(what);
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
  std::string violation() {
    absl::MutexLock lock(&mutex_);
    return violation_;
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
  std::string violation_ ABSL_GUARDED_BY(mutex_);
  std::string exit_ ABSL_GUARDED_BY(mutex_);
  std::string order_ ABSL_GUARDED_BY(mutex_);
};

class ProcessMonitorTest : public testing::Test {
 protected:
  // Runs a shell script with standard output in a pipe to the recorder.
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> RunScript(const std::string& script) {
    return Run({.binary = *ProgramFile::Open("/bin/sh"),
                .args = {"-c", script},
                .environment = {},
                .descriptors = {},
                .sandbox = {.layers = layers_}});
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

  SandboxLayers layers_ = kPid;
  std::shared_ptr<Recorder> recorder_ = std::make_shared<Recorder>();
  std::unique_ptr<ProcessMonitor> monitor_ = *ProcessMonitor::Create(*Launcher::Start());
};

TEST_F(ProcessMonitorTest, OutputAndExitOfAProcessAreReportedInOrder) {
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

TEST_F(ProcessMonitorTest, TheExitOfAKilledProcessIsReported) {
  auto process = RunScript("echo up; exec sleep 100");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(recorder_->WaitForOutput());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*process)->WaitForExit(absl::ZeroDuration()).status()));
  (*process)->Kill();
  EXPECT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_EQ(recorder_->exit(), "killed by signal 9 (Killed)");
  (*process)->Kill();  // hits no other process
}

TEST_F(ProcessMonitorTest, AllOutputIsReadAfterTheProcessIsDead) {
  auto process = RunScript("head -c 60000 /dev/zero");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_EQ(recorder_->output().size(), 60000u);
}

TEST_F(ProcessMonitorTest, AProcessThatPrintsWithoutEndIsReadNowAndThen) {
  const absl::Time begin = SteadyNow();
  auto process = RunScript("while :; do yes | head -c 1000000; done");
  ASSERT_TRUE(process.ok()) << process.status();
  size_t bytes = 0;
  while (bytes < 5 * ProcessMonitor::kMaxBytesInWindow) {
    poll(nullptr, 0, 10);
    bytes = recorder_->output().size();
  }
  // A window more may have begun, and a read is of 16 KiB.
  const double windows = 2 + absl::FDivDuration(SteadyNow() - begin, ProcessMonitor::kWindow);
  EXPECT_LT(static_cast<double>(bytes),
            windows * static_cast<double>(ProcessMonitor::kMaxBytesInWindow + 16 * 1024));
  (*process)->Kill();
  EXPECT_TRUE((*process)->WaitForExit(kLong).ok());
}

TEST_F(ProcessMonitorTest, AGrandchildThatKeepsThePipeOpenDoesNotDelayTheExit) {
  layers_ = SandboxLayers();  // else it would die as well
  auto process = RunScript("sleep 5 & exit 0");
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_TRUE((*process)->WaitForExit(absl::Seconds(4)).ok());
}

// A process that traces `pid` and never calls wait(2) for it. -1: ptrace is not permitted here.
pid_t HoldByDebugger(pid_t pid) {
  int attached[2];
  if (pipe2(attached, O_CLOEXEC) != 0) return -1;
  const pid_t debugger = fork();
  if (debugger == 0) {
    // Copies of the monitor's descriptors would keep them in its epoll set.
    dup2(attached[1], STDOUT_FILENO);
    close_range(STDERR_FILENO + 1, ~0u, 0);
    const char result = ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) == 0 ? 'y' : 'n';
    if (write(STDOUT_FILENO, &result, 1) != 1) _exit(1);
    while (true) pause();
  }
  char result = 0;
  const bool told = read(attached[0], &result, 1) == 1;
  close(attached[0]);
  close(attached[1]);
  return told && result == 'y' ? debugger : -1;
}

TEST_F(ProcessMonitorTest, ADeadProcessThatADebuggerTracesDelaysNoOtherAndIsReapedLater) {
  auto process = RunScript("echo up; exec sleep 1000");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(recorder_->WaitForOutput());
  const pid_t debugger = HoldByDebugger((*process)->pid());
  ASSERT_GT(debugger, 0);
  (*process)->Kill();
  EXPECT_TRUE(absl::IsDeadlineExceeded((*process)->WaitForExit(absl::Milliseconds(300)).status()));
  // The monitor's thread is free for others.
  recorder_ = std::make_shared<Recorder>();
  auto other = RunScript("exit 3");
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_TRUE((*other)->WaitForExit(kLong).ok());

  kill(debugger, SIGKILL);
  waitpid(debugger, nullptr, 0);
  const auto exit = (*process)->WaitForExit(kLong);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->ToString(), "killed by signal 9 (Killed)");
}

// A filter's listener hangs up before the process is dead, here long before.
TEST_F(ProcessMonitorTest, TheEndOfAFilteredProcessIsAwaitedWithoutProcessorTime) {
#ifdef BULKHEAD_SANITIZED
  GTEST_SKIP() << "a program with a sanitizer needs system calls that a filter forbids";
#endif
  ProcessSpec spec = {.binary = *ProgramFile::Open(ConfinedProgram()),
                      .args = {},
                      .environment = {},
                      .descriptors = {},
                      .sandbox = {.layers = kPid.With(SandboxLayer::kSeccomp)}};
  spec.sandbox.filter = *CompileDevicePolicy("");
  auto process = Run(std::move(spec));
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(recorder_->WaitForOutput());
  const pid_t debugger = HoldByDebugger((*process)->pid());
  ASSERT_GT(debugger, 0);
  (*process)->Kill();
  const clock_t before = clock();
  EXPECT_TRUE(absl::IsDeadlineExceeded((*process)->WaitForExit(absl::Seconds(1)).status()));
  EXPECT_LT(clock() - before, CLOCKS_PER_SEC / 2);
  kill(debugger, SIGKILL);
  waitpid(debugger, nullptr, 0);
  EXPECT_TRUE((*process)->WaitForExit(kLong).ok());
}

// --- What dies with a process

class IsolationTest : public ProcessMonitorTest,
                      public testing::WithParamInterface<SandboxLayers> {};

TEST_P(IsolationTest, ForkedProcessesAreDeadWhenTheDeathIsReported) {
  layers_ = GetParam();
  auto process = RunScript("setsid sleep 1000 & echo $$; wait");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(recorder_->WaitForOutput());
  EXPECT_EQ((*process)->layers(), GetParam());
  EXPECT_EQ(recorder_->output(), "1\n") << "the process is not init";
  const pid_t forked = ChildOf((*process)->pid());
  ASSERT_GT(forked, 0);
  (*process)->Kill();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_FALSE(IsAlive(forked));
}

TEST_P(IsolationTest, AProcessKeepsItsUserAndGroup) {
  layers_ = GetParam();
  auto process = RunScript("echo $(id -u) $(id -g)");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_EQ(recorder_->output(), absl::StrCat(geteuid(), " ", getegid(), "\n"));
}

INSTANTIATE_TEST_SUITE_P(Isolations, IsolationTest, testing::Values(kPid, kUserAndPid));

// Runs each test body in its own process, which gives up root.
class OrdinaryUserTest : public ProcessMonitorTest {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    ASSERT_EQ(geteuid(), 0u) << "run as root: this test becomes an ordinary user";
  }

  // Exits with the script's exit code; 10 and above: an earlier step failed.
  [[noreturn]] static void RunAsOrdinaryUser(const char* script) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(10);
    prctl(PR_SET_DUMPABLE, 1);  // as a process that never was root has it
    KeepMemoryOfChildrenOutOfCoreDumps();
    auto monitor = *ProcessMonitor::Create(*Launcher::Start());
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    int output[2];
    if (pipe2(output, O_CLOEXEC | O_NONBLOCK) != 0) _exit(11);
    auto process = monitor->Start({.binary = *ProgramFile::Open("/bin/sh"),
                                   .args = {"-c", script},
                                   .environment = {"PATH=/bin:/usr/bin"},
                                   .descriptors = {null.get(), null.get(), null.get()},
                                   .sandbox = {}},
                                  UniqueFd(output[0]), std::make_shared<Recorder>());
    if (!process.ok()) _exit(12);
    const auto exit = (*process)->WaitForExit(kLong);
    _exit(exit.ok() && !exit->signalled ? exit->code : 14);
  }
  [[noreturn]] static void RunWithoutCoreFiles(const char* script) {
    const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
    if (setrlimit(RLIMIT_CORE, &none) != 0) _exit(15);
    RunAsOrdinaryUser(script);
  }
};

TEST_F(OrdinaryUserTest, GetsAPidNamespaceToo) {
  EXPECT_EXIT(RunAsOrdinaryUser("test $$ = 1 && test $(id -u) = 65534"), testing::ExitedWithCode(0),
              "");
}

TEST_F(OrdinaryUserTest, CoreFilesThatCannotBeForbiddenContainNoMemory) {
  EXPECT_EXIT(RunWithoutCoreFiles("read filter < /proc/self/coredump_filter && "
                                  "test $filter = 00000000"),
              testing::ExitedWithCode(0), "");
}

// core(5): 1 also keeps a core_pattern that is a pipe from being run.
TEST_F(ProcessMonitorTest, AProcessLeavesNoCoreFile) {
  auto process = RunScript("grep 'Max core' /proc/self/limits");
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_THAT(recorder_->output(), testing::ContainsRegex("size +1 +1 +bytes"));
}

TEST_F(ProcessMonitorTest, AProcessHasTheGivenDescriptorsAndEnvironmentOnly) {
  const UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const UniqueFd leak(fcntl(zero.get(), F_DUPFD, 50));  // not close-on-exec
  auto process = Run({.binary = *ProgramFile::Open("/bin/sh"),
                      .args = {"-c", "echo $BULKHEAD_TEST; env | wc -l; echo /proc/self/fd/*"},
                      .environment = {"BULKHEAD_TEST=yes", "PATH=/bin:/usr/bin"},
                      .descriptors = {},
                      .sandbox = {}});
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  // PWD and _ are the shell's own; 3 is the folder that it reads.
  EXPECT_THAT(recorder_->output(),
              testing::MatchesRegex("yes\n[0-9]+\n/proc/self/fd/0 /proc/self/fd/1 "
                                    "/proc/self/fd/2 /proc/self/fd/3\n"));
}

TEST_F(ProcessMonitorTest, AProcessStartsWithNoSignalBlockedOrIgnored) {
  signal(SIGUSR1, SIG_IGN);
  sigset_t block;
  sigemptyset(&block);
  sigaddset(&block, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &block, nullptr);
  auto process = RunScript(
      "while read name value; do case $name in SigBlk:|SigIgn:) echo $value;; "
      "esac; done < /proc/self/status");
  pthread_sigmask(SIG_UNBLOCK, &block, nullptr);
  signal(SIGUSR1, SIG_DFL);
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE((*process)->WaitForExit(kLong).ok());
  EXPECT_EQ(recorder_->output(), "0000000000000000\n0000000000000000\n");
}

TEST_F(ProcessMonitorTest, AProcessOutlivesTheThreadThatRequestedItsStart) {
  std::shared_ptr<MonitoredProcess> process;
  // The kernel's parent-death signal follows the thread that forked: it must be the monitor's.
  std::thread starter([&] { process = *RunScript("echo up; exec sleep 100"); });
  starter.join();
  ASSERT_TRUE(recorder_->WaitForOutput());
  EXPECT_TRUE(absl::IsDeadlineExceeded(process->WaitForExit(absl::Milliseconds(50)).status()));
  process->Kill();
  EXPECT_TRUE(process->WaitForExit(kLong).ok());
}

class ScriptTest : public ProcessMonitorTest {
 protected:
  ProgramFile WriteProgram(const std::string& text) {
    unlink(path_.c_str());
    std::ofstream(path_) << text;
    chmod(path_.c_str(), 0700);
    return *ProgramFile::Open(path_);
  }
  std::string OutputOf(const ProgramFile& program) {
    recorder_ = std::make_shared<Recorder>();
    auto process = Run({.binary = program,
                        .args = {"a", "b"},
                        .environment = {"PATH=/bin"},
                        .descriptors = {},
                        .sandbox = {}});
    if (!process.ok()) return process.status().ToString();
    if (!(*process)->WaitForExit(kLong).ok()) return "it does not end";
    return recorder_->output();
  }

  const std::string path_ = absl::StrCat(testing::TempDir(), "/script");
};

TEST_F(ScriptTest, RunsRepeatedlyAfterItsFileIsReplaced) {
  const ProgramFile script = WriteProgram("#!/bin/sh\necho one $*\n");
  EXPECT_EQ(OutputOf(script), "one a b\n");
  const ProgramFile other = WriteProgram("#!/bin/sh\necho two $*\n");
  EXPECT_EQ(OutputOf(script), "one a b\n");
  EXPECT_EQ(OutputOf(other), "two a b\n");
  unlink(path_.c_str());
  EXPECT_EQ(OutputOf(script), "one a b\n");
  EXPECT_EQ(OutputOf(other), "two a b\n");
}

TEST_F(ScriptTest, HasItselfAsAnAdditionalDescriptor) {
  const std::string descriptors = OutputOf(WriteProgram("#!/bin/sh\necho /proc/self/fd/*\n"));
  EXPECT_THAT(descriptors, HasSubstr("/fd/2 /proc/self/fd/3"));
}

TEST_F(ScriptTest, WithoutItsInterpreterIsAnErrorThatNamesIt) {
  EXPECT_THAT(OutputOf(WriteProgram("#!/no/such/interpreter\n")), HasSubstr(path_));
}

TEST_F(ProcessMonitorTest, AFileThatIsNotAProgramIsAnErrorAndLeavesNoZombie) {
  const std::string text = absl::StrCat(testing::TempDir(), "/text");
  std::ofstream(text) << "no program\n";
  chmod(text.c_str(), 0700);
  const auto process = Run({.binary = *ProgramFile::Open(text),
                            .args = {},
                            .environment = {},
                            .descriptors = {},
                            .sandbox = {}});
  EXPECT_FALSE(process.ok());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), 0) << "the launcher lives, and nothing else";
}

TEST_F(ProcessMonitorTest, TheDestructorKillsRunningProcesses) {
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
