// `vmctl console`: bytes both ways, what ends it, and the terminal's mode.

#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/testing/child_process.h"
#include "tools/vmctl/testing/vmctl_fixture.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(VmctlTest, AConsoleOverPipesCarriesEveryByteBothWays) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console", "--follow", "console"});
  vm->WaitForOutput("attached console\n");
  Tell(*vm, "output login: \\033[1m\\000\\r\\n");
  vmctl->WaitForOutput(absl::string_view("login: \x1b[1m\0\r\n", 14));
  // No key leaves where there is no terminal.
  vmctl->Write("root\n\x1d");
  EXPECT_THAT(vm->WaitForOutput("\\035\n"), HasSubstr("typed root\\n"));
  // Nor does the end of input.
  vmctl->CloseInput();
  const std::string much(300'000, 'x');
  Tell(*vm, absl::StrCat("output ", much, "!"));
  EXPECT_EQ(vmctl->WaitForOutput("!"), much);
  End(*vm);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->error(), "vmctl: VM \"web\" has ended\n");
}

TEST_F(VmctlTest, AConsoleEndsAtTheEndOfItsInputAndSendsItAll) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console"});
  vm->WaitForOutput("attached \n");
  Tell(*vm, "output shown");
  vmctl->WaitForOutput("shown");
  vmctl->Write("reboot\n");
  vmctl->CloseInput();
  vm->WaitForOutput("typed reboot\\n\n");
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->error(), "");
  vm->WaitForOutput("detached\n");
}

TEST_F(VmctlTest, AConsoleTellsWhatWasLostAndWhere) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console"});
  vm->WaitForOutput("attached \n");
  Tell(*vm, "output before");
  vmctl->WaitForOutput("before");
  Tell(*vm, "lost 4097 after");
  vmctl->WaitForError("vmctl: 4097 bytes of output were lost here\n");
  vmctl->WaitForOutput("after");
}

TEST_F(VmctlTest, AConsoleEndsOnSignalsAndWhenNobodyReads) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"console"});
    vm->WaitForOutput("attached \n");
    vmctl->Signal(signal);
    EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
    EXPECT_EQ(vmctl->error(), "");
    vm->WaitForOutput("detached\n");
  }
  const std::unique_ptr<ChildProcess> shell = ChildProcess::Start(
      {"/bin/bash", "-c", absl::StrCat(kVmctl, " console | head -c 5; exit ${PIPESTATUS[0]}")},
      Environment());
  vm->WaitForOutput("attached \n");
  Tell(*vm, "output hello, world");
  EXPECT_EQ(shell->WaitForEnd(), "exit code 0");
  EXPECT_EQ(shell->output(), "hello");
  EXPECT_EQ(shell->error(), "");
}

// A user's shell around `vmctl console`: what the terminal's mode is before and after.
class ConsoleTerminalTest : public VmctlTest {
 protected:
  void SetUp() override {
    VmctlTest::SetUp();
    vm_ = StartVm();
    // A mode that is not the default: it must be this one that comes back.
    shell_ = ChildProcess::Start(
        {"/bin/bash", "-c",
         absl::StrCat("stty -echoke intr ^P; stty -g; sh -c 'echo \"pid $$.\"; exec ", kVmctl,
                      " console'; echo \"code $?.\"; stty -g; echo end.")},
        Environment(), ChildProcess::Streams::kTerminal);
    former_ = shell_->WaitForOutput("\r\npid ");
    vmctl_ = std::stoi(shell_->WaitForOutput("."));
    shell_->WaitForOutput("vmctl: console of VM \"web\"; Ctrl-] leaves\r\n");
    vm_->WaitForOutput("attached \n");
  }

  // vmctl has said `farewell` and ended with code 0; the terminal is as it was.
  void ExpectLeft(const std::string& farewell) {
    shell_->WaitForOutput(farewell + "\r\n");
    EXPECT_EQ(shell_->WaitForOutput("."), "code 0");
    EXPECT_EQ(shell_->WaitForOutput("end."), "\r\n" + former_ + "\r\n");
    EXPECT_EQ(shell_->WaitForEnd(), "exit code 0");
  }

  termios Mode() {
    termios mode = {};
    EXPECT_EQ(tcgetattr(shell_->terminal(), &mode), 0);
    return mode;
  }

  std::unique_ptr<ChildProcess> vm_;
  std::unique_ptr<ChildProcess> shell_;
  std::string former_;  // stty -g
  pid_t vmctl_ = 0;
};

TEST_F(ConsoleTerminalTest, EveryKeyGoesToTheGuestUntilCtrlBracketLeaves) {
  // Ctrl-C, Ctrl-D, Ctrl-Z, Ctrl-P and Return; no end of line follows.
  shell_->Write("a\x03\x04\x1a\x10\r");
  vm_->WaitForOutput("typed a\\003\\004\\032\\020\\r\n");
  // Nothing was echoed, and nothing is translated.
  Tell(*vm_, "output x\\ny\\r\\n");
  EXPECT_EQ(shell_->WaitForOutput("x\ny\r\n"), "");
  shell_->Write("\x1d");
  ExpectLeft("\nvmctl: left the console; VM \"web\" continues");
  vm_->WaitForOutput("detached\n");
}

TEST_F(ConsoleTerminalTest, TheEndOfTheVmLeaves) {
  Tell(*vm_, "output last words");
  End(*vm_);
  ExpectLeft("last words\r\nvmctl: VM \"web\" has ended");
}

TEST_F(ConsoleTerminalTest, AKilledVmmLeaves) {
  vm_->Signal(SIGKILL);
  ExpectLeft("vmctl: VM \"web\" has ended");
}

TEST_F(ConsoleTerminalTest, ASignalLeaves) {
  ASSERT_EQ(kill(vmctl_, SIGTERM), 0);
  ExpectLeft("vmctl: left the console; VM \"web\" continues");
}

TEST_F(ConsoleTerminalTest, PressedTwiceTheKeyLeavesAVmThatHangs) {
  vm_->Signal(SIGSTOP);
  shell_->Write("text\x1d\x1d");
  ExpectLeft("vmctl: left the console; VM \"web\" continues");
}

TEST_F(ConsoleTerminalTest, LostOutputIsSaidOnALineOfItsOwn) {
  Tell(*vm_, "lost 12 after");
  shell_->WaitForOutput("vmctl: 12 bytes of output were lost here\r\nafter");
  shell_->Write("\x1d");
  ExpectLeft("vmctl: left the console; VM \"web\" continues");
}

TEST_F(VmctlTest, AStoppedConsoleGivesTheTerminalBackMeanwhile) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl =
      StartVmctl({"console", "--escape=^A"}, ChildProcess::Streams::kTerminal);
  vmctl->WaitForOutput("Ctrl-A leaves\r\n");
  vm->WaitForOutput("attached \n");
  vmctl->Write("1");
  vm->WaitForOutput("typed 1\n");
  vmctl->Signal(SIGTSTP);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(vmctl->pid()), &info, WSTOPPED), 0);
  ASSERT_EQ(info.si_code, CLD_STOPPED);
  termios mode = {};
  ASSERT_EQ(tcgetattr(vmctl->terminal(), &mode), 0);
  EXPECT_EQ(mode.c_lflag & (ICANON | ECHO | ISIG), tcflag_t{ICANON | ECHO | ISIG});
  vmctl->Signal(SIGCONT);
  Tell(*vm, "output again");
  vmctl->WaitForOutput("again");
  // Raw again: this is neither an interrupt nor does it wait for the end of a line.
  vmctl->Write("\x03");
  vm->WaitForOutput("typed \\003\n");
  vmctl->Write("\x1d\x01");
  vm->WaitForOutput("typed \\035\n");
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
}

TEST_F(VmctlTest, AConsoleOnATerminalThatTakesNothingEndsOnASignal) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl =
      StartVmctl({"console"}, ChildProcess::Streams::kTerminal);
  vmctl->WaitForOutput("leaves\r\n");
  vm->WaitForOutput("attached \n");
  // Nobody reads it from now on. Full it is once it holds no more than a moment ago.
  for (int i = 0; i < 100; ++i) Tell(*vm, absl::StrCat("output ", std::string(1000, 'x')));
  int held = -1;
  for (int before = -2; held <= 0 || held != before;) {
    before = held;
    absl::SleepFor(absl::Milliseconds(100));
    ASSERT_EQ(ioctl(vmctl->terminal(), FIONREAD, &held), 0);
  }
  vmctl->Signal(SIGTERM);
  siginfo_t info = {};
  for (int i = 0; i < 3000 && info.si_pid == 0; ++i) {
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(vmctl->pid()), &info, WEXITED | WNOHANG | WNOWAIT),
              0);
    absl::SleepFor(absl::Milliseconds(10));
  }
  if (info.si_pid == 0) vmctl->Signal(SIGKILL);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
}

}  // namespace
}  // namespace bulkhead::vmctl
