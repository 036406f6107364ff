// `vmctl top`: the live screen on a terminal, and the forms for scripts.

#include <ctype.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/testing/child_process.h"
#include "tools/vmctl/testing/vmctl_fixture.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kEnterScreen[] = "\x1b[?1049h\x1b[?25l";
constexpr char kLeaveScreen[] = "\x1b[?25h\x1b[?1049l";

// --- For scripts --------------------------------------------------------------------------------

TEST_F(VmctlTest, TopOncePrintsOneSampleAsText) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const Result result = Run({"top", "--once", "--interval=100ms"});
  EXPECT_EQ(result.exit, "exit code 0") << result.error;
  EXPECT_EQ(result.error, "");
  EXPECT_THAT(result.output, StartsWith("web  RUNNING  up 3d 4h, guest 1h 12m after 1 reboot\n"));
  EXPECT_THAT(result.output, HasSubstr("\nVCPU "));
  EXPECT_THAT(result.output, HasSubstr("\nDEVICE "));
  EXPECT_THAT(result.output, HasSubstr("\ndisk0       RUNNING "));
  EXPECT_THAT(result.output, Not(HasSubstr("\x1b")));
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(result.output, '\n'))) {
    EXPECT_LE(line.size(), 80u) << line;
  }
}

TEST_F(VmctlTest, TopPrintsAsManySamplesAsItIsToldTo) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::string lines = Run({"top", "-n", "3", "--json", "--interval=100ms"}).output;
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3) << lines;
  EXPECT_THAT(lines, StartsWith("{\"status\":{\"name\":\"web\","));
  EXPECT_THAT(lines, HasSubstr("\"interval\":\""));
  EXPECT_THAT(lines, HasSubstr("\"devices\":[{\"name\":\"console\","));
  const std::string text = Run({"top", "--count=2", "--interval=100ms"}).output;
  EXPECT_THAT(text, HasSubstr("\n\nweb  RUNNING "));
}

TEST_F(VmctlTest, TopEndsOnASignalWithoutAnError) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  const std::unique_ptr<ChildProcess> vmctl = StartVmctl({"top", "--json", "--interval=100ms"});
  vmctl->WaitForOutput("\n");
  vmctl->Signal(SIGINT);
  EXPECT_EQ(vmctl->WaitForEnd(), "exit code 0");
  EXPECT_EQ(vmctl->error(), "");
}

TEST_F(VmctlTest, TopOfAVmThatHangsTimesOut) {
  const std::unique_ptr<ChildProcess> vm = StartVm();
  Tell(*vm, "hang");
  const Result result = Run({"top", "--once", "--timeout=200ms"});
  EXPECT_EQ(result.exit, "exit code 5");
  EXPECT_THAT(result.error, HasSubstr("did not answer within 200ms"));
}

TEST_F(VmctlTest, TopRefusesWhatIsNoIntervalAndNoCount) {
  for (const char* wrong : {"0s", "99ms", "25h", "inf", "2", "x"}) {
    ExpectError({"top", "--interval", wrong}, 2,
                absl::StrCat("top: --interval: \"", wrong,
                             "\" is not a time of 100ms to 24h; give one as 500ms or 5s; see vmctl "
                             "top --help"));
  }
  for (const char* wrong : {"0", "-1", "1K", "x"}) {
    ExpectError({"top", absl::StrCat("--count=", wrong)}, 2,
                absl::StrCat("top: --count: \"", wrong,
                             "\" is not a number from 1 on; see vmctl top --help"));
  }
}

// --- On a terminal ------------------------------------------------------------------------------

// A user's shell around `vmctl top`: what the terminal's mode is before and after.
class TopTerminalTest : public VmctlTest {
 protected:
  void StartTop(const std::string& arguments = "", const std::string& environment = "") {
    vm_ = StartVm();
    shell_ = ChildProcess::Start(
        {"/bin/bash", "-c",
         absl::StrCat("stty -echoke intr ^P rows 24 columns 80; stty -g; sh -c 'echo \"pid $$.\"; ",
                      environment, " exec ", kVmctl, " top --interval=100ms ", arguments,
                      "'; echo \"code $?.\"; stty -g; echo end.")},
        Environment(), ChildProcess::Streams::kTerminal);
    former_ = shell_->WaitForOutput("\r\npid ");
    vmctl_ = std::stoi(shell_->WaitForOutput("."));
    shell_->WaitForOutput(kEnterScreen);
  }

  // A whole screen from its beginning; lines end in CR LF.
  std::string NextScreen() {
    shell_->WaitForOutput("\x1b[H");
    return shell_->WaitForOutput("q: quit");  // its last line begins so
  }

  // One that has a sample.
  std::string SampleScreen() {
    std::string screen = NextScreen();
    while (screen.find("DEVICE") == std::string::npos) screen = NextScreen();
    return screen;
  }

  // vmctl has left its screen, said `farewell` and ended; the terminal is as it was.
  void ExpectLeft(const std::string& farewell = "", const std::string& code = "0") {
    shell_->WaitForOutput(kLeaveScreen);
    EXPECT_THAT(shell_->WaitForOutput("code "), HasSubstr(farewell));
    EXPECT_EQ(shell_->WaitForOutput("."), code);
    EXPECT_EQ(shell_->WaitForOutput("end."), "\r\n" + former_ + "\r\n");
    EXPECT_EQ(shell_->WaitForEnd(), "exit code 0");
  }

  void Resize(unsigned short lines, unsigned short columns) {
    const winsize size = {.ws_row = lines, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(ioctl(shell_->terminal(), TIOCSWINSZ, &size), 0);
  }

  // The lines of a screen, without escape sequences.
  static std::vector<std::string> Lines(const std::string& screen) {
    std::string text;
    for (size_t i = 0; i < screen.size(); ++i) {
      if (screen[i] != '\x1b') {
        text.push_back(screen[i]);
        continue;
      }
      while (i < screen.size() && !isalpha(static_cast<unsigned char>(screen[i]))) ++i;
    }
    return absl::StrSplit(text, "\r\n");
  }

  std::unique_ptr<ChildProcess> vm_;
  std::unique_ptr<ChildProcess> shell_;
  std::string former_;  // stty -g
  pid_t vmctl_ = 0;
};

TEST_F(TopTerminalTest, AScreenFitsItsTerminalAndQLeaves) {
  StartTop();
  const std::vector<std::string> lines = Lines(SampleScreen());
  EXPECT_EQ(lines.size(), 24u);
  for (const std::string& line : lines) EXPECT_LE(line.size(), 80u) << line;
  EXPECT_THAT(lines[0], StartsWith("web  RUNNING  up "));
  shell_->Write("q");
  ExpectLeft();
}

TEST_F(TopTerminalTest, ItFollowsTheSizeOfTheTerminal) {
  StartTop();
  SampleScreen();
  Resize(10, 120);
  std::string screen = SampleScreen();
  while (Lines(screen).size() != 10) screen = SampleScreen();
  EXPECT_THAT(screen, HasSubstr("KICK/s"));
  shell_->Write("\x03");
  ExpectLeft();
}

TEST_F(TopTerminalTest, SignalsGiveTheTerminalBack) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    StartTop();
    SampleScreen();
    ASSERT_EQ(kill(vmctl_, signal), 0);
    ExpectLeft();
  }
}

TEST_F(TopTerminalTest, QLeavesAVmThatDoesNotAnswer) {
  StartTop();
  SampleScreen();
  vm_->Signal(SIGSTOP);
  shell_->WaitForOutput("no answer for 1.");
  shell_->Write("q");
  ExpectLeft();
  vm_->Signal(SIGCONT);
}

TEST_F(TopTerminalTest, ItGoesOnOnceAVmAnswersAgain) {
  StartTop("--timeout=300ms");
  SampleScreen();
  vm_->Signal(SIGSTOP);
  shell_->WaitForOutput("no answer for 1.");  // longer than the time-out
  vm_->Signal(SIGCONT);
  SampleScreen();
  shell_->Write("q");
  ExpectLeft();
}

TEST_F(TopTerminalTest, TheEndOfTheVmLeaves) {
  StartTop();
  SampleScreen();
  End(*vm_);
  ExpectLeft("vmctl: VM \"web\" has ended");
}

TEST_F(TopTerminalTest, ItEndsAfterAsManySamplesAsItIsToldTo) {
  StartTop("-n 2");
  ExpectLeft();
}

TEST_F(TopTerminalTest, ColourIsForThoseWhoWantIt) {
  StartTop();
  EXPECT_THAT(SampleScreen(), HasSubstr("\x1b[32mRUNNING\x1b[0m"));
  shell_->Write("q");
  ExpectLeft();
  StartTop("", "NO_COLOR=1");
  EXPECT_THAT(SampleScreen(), Not(HasSubstr("\x1b[32m")));
  shell_->Write("q");
  ExpectLeft();
}

TEST_F(TopTerminalTest, StoppedItGivesTheTerminalBackMeanwhile) {
  StartTop();
  SampleScreen();
  shell_->Write("\x1a");
  shell_->WaitForOutput(kLeaveScreen);
  // The shell of the test has no job control: nothing else lets it go on.
  ASSERT_EQ(kill(vmctl_, SIGCONT), 0);
  shell_->WaitForOutput(kEnterScreen);
  SampleScreen();
  shell_->Write("q");
  ExpectLeft();
}

}  // namespace
}  // namespace bulkhead::vmctl
