#include "base/raw_terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

// termios has padding: no memcmp.
bool Same(const termios& a, const termios& b) {
  return a.c_iflag == b.c_iflag && a.c_oflag == b.c_oflag && a.c_cflag == b.c_cflag &&
         a.c_lflag == b.c_lflag && a.c_cc[VMIN] == b.c_cc[VMIN] && a.c_cc[VTIME] == b.c_cc[VTIME];
}

// Standard input is something else for a while.
class RawTerminalTest : public testing::Test {
 protected:
  RawTerminalTest() : saved_stdin_(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)) {}
  ~RawTerminalTest() override {
    if (saved_stdin_.get() >= 0) {
      dup2(saved_stdin_.get(), STDIN_FILENO);
    } else {
      close(STDIN_FILENO);
    }
  }

  // A terminal in the mode a shell leaves it in.
  void PutTerminalOnStdin() {
    user_ = UniqueFd(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    ASSERT_GE(user_.get(), 0);
    ASSERT_EQ(grantpt(user_.get()), 0);
    ASSERT_EQ(unlockpt(user_.get()), 0);
    const UniqueFd terminal(open(ptsname(user_.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
    ASSERT_GE(terminal.get(), 0);
    ASSERT_EQ(dup2(terminal.get(), STDIN_FILENO), STDIN_FILENO);
    const termios mode = Mode();
    ASSERT_EQ(mode.c_lflag & (ECHO | ICANON | ISIG), tcflag_t{ECHO | ICANON | ISIG});
    ASSERT_NE(mode.c_iflag & ICRNL, 0u);
    ASSERT_NE(mode.c_oflag & OPOST, 0u);
  }

  // `size` bytes, or what came of them in five seconds: the kernel moves them in pieces, in its
  // time.
  static std::string Read(int fd, size_t size) {
    std::string bytes;
    pollfd readable{.fd = fd, .events = POLLIN, .revents = 0};
    while (bytes.size() < size && poll(&readable, 1, 5000) == 1) {
      char piece[64];
      const ssize_t count = read(fd, piece, std::min(size - bytes.size(), sizeof(piece)));
      if (count <= 0) break;
      bytes.append(piece, count);
    }
    return bytes;
  }

  static termios Mode() {
    termios mode{};
    EXPECT_EQ(tcgetattr(STDIN_FILENO, &mode), 0);
    return mode;
  }

  UniqueFd user_;  // the end at which the user types and looks

 private:
  UniqueFd saved_stdin_;
};

TEST_F(RawTerminalTest, WhileItLivesEveryKeyArrivesAtOnceAndUnchanged) {
  ASSERT_NO_FATAL_FAILURE(PutTerminalOnStdin());
  const RawTerminal raw(RawTerminal::Output::kProcessed);
  // Ctrl-C, Ctrl-D, Return; no end of line follows.
  const std::string keys = "a\x03\x04\r";
  ASSERT_EQ(write(user_.get(), keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  EXPECT_EQ(Read(STDIN_FILENO, keys.size()), keys);
}

TEST_F(RawTerminalTest, WhileItLivesNothingIsEchoedAndLinesComeOutWhole) {
  ASSERT_NO_FATAL_FAILURE(PutTerminalOnStdin());
  const RawTerminal raw(RawTerminal::Output::kProcessed);
  ASSERT_EQ(write(user_.get(), "key", 3), 3);
  ASSERT_EQ(Read(STDIN_FILENO, 3), "key");  // an echo would be on its way now
  ASSERT_EQ(write(STDIN_FILENO, "line\n", 5), 5);
  EXPECT_EQ(Read(user_.get(), 6), "line\r\n");
}

TEST_F(RawTerminalTest, AfterwardsTheModeIsTheFormerOne) {
  ASSERT_NO_FATAL_FAILURE(PutTerminalOnStdin());
  // Not the default: it must be this one that comes back.
  termios former = Mode();
  former.c_lflag &= ~tcflag_t{ECHOE};
  ASSERT_EQ(tcsetattr(STDIN_FILENO, TCSANOW, &former), 0);
  {
    const RawTerminal raw(RawTerminal::Output::kProcessed);
    EXPECT_FALSE(Same(Mode(), former));
  }
  EXPECT_TRUE(Same(Mode(), former));
}

TEST_F(RawTerminalTest, WithoutATerminalOnStandardInputNothingIsTouched) {
  // A terminal that this process has, but elsewhere.
  ASSERT_NO_FATAL_FAILURE(PutTerminalOnStdin());
  const UniqueFd terminal(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
  const termios former = Mode();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  ASSERT_EQ(dup2(reader.get(), STDIN_FILENO), STDIN_FILENO);
  ASSERT_EQ(write(writer.get(), "text", 4), 4);
  {
    const RawTerminal raw(RawTerminal::Output::kProcessed);
    termios mode;
    ASSERT_EQ(tcgetattr(terminal.get(), &mode), 0);
    EXPECT_TRUE(Same(mode, former));
  }
  EXPECT_EQ(Read(STDIN_FILENO, 4), "text");
}

// A job that was stopped and goes on in the background ends, and the shell has its terminal back.
TEST_F(RawTerminalTest, InTheBackgroundTheFormerModeComesBackAndNothingStops) {
  ASSERT_NO_FATAL_FAILURE(PutTerminalOnStdin());
  const termios former = Mode();
  const pid_t session = fork();
  if (session == 0) {
    // The terminal's session, with this process in the foreground.
    if (setsid() < 0 || ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0) _exit(2);
    std::optional<RawTerminal> raw(RawTerminal::Output::kProcessed);
    const pid_t job = fork();
    if (job == 0) {
      setpgid(0, 0);
      raw.reset();  // in the background
      _exit(0);
    }
    int status = -1;
    waitpid(job, &status, WUNTRACED);
    if (WIFSTOPPED(status)) kill(job, SIGKILL);
    _exit(WIFEXITED(status) && Same(Mode(), former) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(session, &status, 0), session);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// What it did not change it must not "restore".
TEST_F(RawTerminalTest, ATerminalThatCameLaterKeepsItsMode) {
  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(dup2(null.get(), STDIN_FILENO), STDIN_FILENO);
  std::optional<RawTerminal> raw(RawTerminal::Output::kProcessed);
  ASSERT_NO_FATAL_FAILURE(PutTerminalOnStdin());
  const termios former = Mode();
  raw.reset();
  EXPECT_TRUE(Same(Mode(), former));
}

}  // namespace
}  // namespace bulkhead
