// Two vmms start with one explicit path, at which an old socket exists. The first is stopped
// between its check of the old socket and the removal, where another start is most dangerous.

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/control/listening_socket.h"

namespace bulkhead::vmm {
namespace {

// A child process that opens the socket, reports the result, and keeps the socket until it is
// killed.
class Opener {
 public:
  Opener(const std::string& path, bool traced) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    pid_ = fork();
    if (pid_ == 0) {
      if (traced) {
        ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        raise(SIGSTOP);
      }
      const absl::StatusOr<ListeningSocket> socket = ListeningSocket::Open(path);
      const char result = socket.ok() ? 'y' : 'n';
      if (write(ends[1], &result, 1) == 1) pause();
      _exit(0);
    }
    close(ends[1]);
    report_.reset(ends[0]);
  }

  ~Opener() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }

  // 'y', 'n', or '?' if there is no result in time.
  char Result(absl::Duration timeout) {
    pollfd readable = {.fd = report_.get(), .events = POLLIN, .revents = 0};
    if (result_ == '?' &&
        poll(&readable, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) == 1 &&
        read(report_.get(), &result_, 1) != 1) {
      result_ = '?';
    }
    return result_;
  }

  // Lets a traced child run until it is about to remove a file. False: it exited before.
  bool RunToUnlink() {
    int status = 0;
    for (bool entering = true; waitpid(pid_, &status, 0) == pid_ && WIFSTOPPED(status);) {
      if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
        user_regs_struct registers;
        if (ptrace(PTRACE_GETREGS, pid_, nullptr, &registers) != 0) return false;
        if (entering && (registers.orig_rax == SYS_unlink || registers.orig_rax == SYS_unlinkat)) {
          return true;
        }
        entering = !entering;
      } else if (ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_TRACESYSGOOD) != 0) {
        return false;
      }
      if (ptrace(PTRACE_SYSCALL, pid_, nullptr, nullptr) != 0) return false;
    }
    return false;
  }

  void Detach() { EXPECT_EQ(ptrace(PTRACE_DETACH, pid_, nullptr, nullptr), 0) << strerror(errno); }

 private:
  pid_t pid_ = -1;
  UniqueFd report_;
  char result_ = '?';
};

// The process that listens at `path`; 0: none.
pid_t Listener(const std::string& path) {
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return 0;
  ucred peer = {};
  socklen_t size = sizeof(peer);
  return getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

TEST(SocketRaceTest, ExactlyOneOfTwoStartsWithAnOldSocketSucceedsAndIsReachable) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/race.sock");
  {
    EXPECT_EQ(Opener(path, /*traced=*/false).Result(absl::Seconds(60)), 'y');
  }
  ASSERT_EQ(Listener(path), 0) << "the old socket still has a process";

  Opener first(path, /*traced=*/true);
  ASSERT_TRUE(first.RunToUnlink());
  Opener second(path, /*traced=*/false);
  second.Result(absl::Milliseconds(500));  // the time in which it could take the path
  first.Detach();

  const char results[] = {first.Result(absl::Seconds(60)), second.Result(absl::Seconds(60)), 0};
  EXPECT_TRUE(strcmp(results, "yn") == 0 || strcmp(results, "ny") == 0) << results;
  EXPECT_EQ(Listener(path), results[0] == 'y' ? first.pid() : second.pid());
}

}  // namespace
}  // namespace bulkhead::vmm
