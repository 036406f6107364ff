#include "integration/testbed/agent/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/argument_pointers.h"
#include "base/errno_status.h"
#include "base/pipe.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/taken_signals.h"
#include "base/unique_fd.h"

namespace bulkhead::testbed {
namespace {

// A killed process can keep a pipe open only while it is stuck in the kernel.
constexpr absl::Duration kDrainTimeout = absl::Seconds(5);

// The descriptors that the command gets, and the agent's ends of them. With a terminal, one
// descriptor serves all three.
struct Streams {
  UniqueFd child[3];
  UniqueFd input;   // to be written
  UniqueFd output;  // to be read
  UniqueFd error;   // to be read; none with a terminal
};

void Resize(int terminal, WindowSize size) {
  const winsize window = {size.rows, size.columns, 0, 0};
  ioctl(terminal, TIOCSWINSZ, &window);  // on failure the command sees the old size
}

absl::StatusOr<Streams> MakeTerminal(WindowSize size) {
  Streams streams;
  streams.input.reset(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!streams.input.ok()) return ErrnoToStatus(errno, "open /dev/ptmx");
  if (unlockpt(streams.input.get()) != 0) return ErrnoToStatus(errno, "unlockpt");
  char name[64];
  if (int error = ptsname_r(streams.input.get(), name, sizeof(name)); error != 0) {
    return ErrnoToStatus(error, "ptsname");
  }
  Resize(streams.input.get(), size);
  streams.output.reset(fcntl(streams.input.get(), F_DUPFD_CLOEXEC, 3));
  for (UniqueFd& fd : streams.child) {
    fd.reset(open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!fd.ok()) return ErrnoToStatus(errno, absl::StrCat("open ", name));
  }
  return streams;
}

absl::StatusOr<Streams> MakePipes() {
  Streams streams;
  ASSIGN_OR_RETURN(Pipe in, CreatePipe());
  ASSIGN_OR_RETURN(Pipe out, CreatePipe());
  ASSIGN_OR_RETURN(Pipe error, CreatePipe());
  streams.child[0] = std::move(in.read_end);
  streams.input = std::move(in.write_end);
  streams.output = std::move(out.read_end);
  streams.child[1] = std::move(out.write_end);
  streams.error = std::move(error.read_end);
  streams.child[2] = std::move(error.write_end);
  return streams;
}

// In the child: becomes the command or ends with the exit code that a shell would give.
[[noreturn]] void Exec(const StartRequest& request, const Streams& streams) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  setsid();
  for (int fd = 0; fd < 3; ++fd) dup2(streams.child[fd].get(), fd);
  if (request.terminal) ioctl(0, TIOCSCTTY, 0);
  if (chdir(request.directory.c_str()) != 0) {
    dprintf(2, "testbed: chdir %s: %s\n", request.directory.c_str(), strerror(errno));
    _exit(126);
  }
  std::vector<char*> environment = ArgumentPointers(request.environment);
  std::vector<char*> command = ArgumentPointers(request.command);
  environ = environment.data();
  execvp(command[0], command.data());
  const int error = errno;
  dprintf(2, "testbed: %s: %s\n", command[0], strerror(error));
  _exit(error == ENOENT ? 127 : 126);
}

uint32_t ShellCode(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

// Passes bytes between the launcher's port and the command's streams until the command has
// ended and all of its output is sent.
class Relay {
 public:
  Relay(Port& port, Streams streams, UniqueFd child_events, pid_t child)
      : port_(port),
        streams_(std::move(streams)),
        child_events_(std::move(child_events)),
        child_(child) {}

  absl::StatusOr<uint32_t> Run() {
    RETURN_IF_ERROR(TakeFrames());
    absl::Time drain_deadline = absl::InfiniteFuture();
    while (!ended_ || streams_.output.ok() || streams_.error.ok()) {
      const absl::Duration left = drain_deadline - SteadyNow();
      if (left <= absl::ZeroDuration()) break;
      std::array<pollfd, 5> events = {
          pollfd{port_.fd(), POLLIN, 0},
          pollfd{child_events_.get(), POLLIN, 0},
          pollfd{streams_.output.get(), POLLIN, 0},  // poll skips negative descriptors
          pollfd{streams_.error.get(), POLLIN, 0},
          pollfd{pending_input_.empty() ? -1 : streams_.input.get(), POLLOUT, 0},
      };
      const int timeout_ms = left > absl::Hours(1) ? -1 : absl::ToInt64Milliseconds(left) + 1;
      if (poll(events.data(), events.size(), timeout_ms) < 0 && errno != EINTR) {
        return ErrnoToStatus(errno, "poll");
      }
      if (events[2].revents != 0) RETURN_IF_ERROR(Forward(streams_.output, FrameType::kStdout));
      if (events[3].revents != 0) RETURN_IF_ERROR(Forward(streams_.error, FrameType::kStderr));
      if (events[4].revents != 0) RETURN_IF_ERROR(FeedInput());
      if (events[0].revents != 0) RETURN_IF_ERROR(ReadPort());
      if (events[1].revents != 0 && Reap()) drain_deadline = SteadyNow() + kDrainTimeout;
    }
    return exit_code_;
  }

 private:
  // One read of a stream of the command. At its end (a terminal says EIO) the stream is closed.
  absl::Status Forward(UniqueFd& stream, FrameType type) {
    char buffer[32 << 10];
    const ssize_t count = read(stream.get(), buffer, sizeof(buffer));
    if (count > 0) return port_.Send(type, absl::string_view(buffer, count));
    if (count == 0 || (errno != EINTR && errno != EAGAIN)) stream.reset();
    return absl::OkStatus();
  }

  absl::Status ReadPort() {
    RETURN_IF_ERROR(port_.Read());
    return TakeFrames();
  }

  absl::Status TakeFrames() {
    while (true) {
      absl::StatusOr<Frame> frame = port_.Next();
      if (absl::IsUnavailable(frame.status())) return absl::OkStatus();
      RETURN_IF_ERROR(frame.status());
      switch (frame->type) {
        case FrameType::kStdin:
          pending_input_ += frame->payload;
          if (!streams_.input.ok()) RETURN_IF_ERROR(DropInput());
          break;
        case FrameType::kStdinEnd:
          input_ended_ = true;
          break;
        case FrameType::kWindowSize:
          if (WindowSize size; frame->payload.size() == sizeof(size)) {
            std::memcpy(&size, frame->payload.data(), sizeof(size));
            Resize(streams_.output.get(), size);
          }
          break;
        default:
          return absl::InvalidArgumentError("unexpected frame");
      }
      if (input_ended_ && pending_input_.empty()) streams_.input.reset();
    }
  }

  // Writes what fits into the command's standard input. A command that closed it loses the
  // rest, as it would in a pipeline.
  absl::Status FeedInput() {
    const ssize_t written =
        write(streams_.input.get(), pending_input_.data(), pending_input_.size());
    if (written < 0) {
      if (errno == EINTR || errno == EAGAIN) return absl::OkStatus();
      streams_.input.reset();
      return DropInput();
    }
    pending_input_.erase(0, written);
    if (input_ended_ && pending_input_.empty()) streams_.input.reset();
    return port_.Send(FrameType::kStdinTaken, written);
  }

  absl::Status DropInput() {
    const uint32_t dropped = pending_input_.size();
    pending_input_.clear();
    return port_.Send(FrameType::kStdinTaken, dropped);
  }

  // Reaps dead processes. True when the command itself was among them for the first time: then
  // all processes that it left behind are killed, so that its pipes reach their end.
  bool Reap() {
    signalfd_siginfo info;
    while (read(child_events_.get(), &info, sizeof(info)) > 0) {
    }
    bool command_ended = false;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid != child_) continue;
      exit_code_ = ShellCode(status);
      ended_ = command_ended = true;
    }
    if (command_ended) kill(-1, SIGKILL);
    return command_ended;
  }

  Port& port_;
  Streams streams_;
  const UniqueFd child_events_;
  const pid_t child_;
  std::string pending_input_;  // at most kStdinWindow: the launcher waits for acknowledgements
  bool input_ended_ = false;
  bool ended_ = false;
  uint32_t exit_code_ = 0;
};

}  // namespace

absl::StatusOr<uint32_t> RunCommand(const StartRequest& request, Port& port) {
  ASSIGN_OR_RETURN(Streams streams, request.terminal ? MakeTerminal(request.window) : MakePipes());
  signal(SIGPIPE, SIG_IGN);
  ASSIGN_OR_RETURN(UniqueFd child_events, TakeSignals({SIGCHLD}));

  if (fcntl(streams.input.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoToStatus(errno, "fcntl");

  const pid_t child = fork();
  if (child < 0) return ErrnoToStatus(errno, "fork");
  if (child == 0) Exec(request, streams);
  for (UniqueFd& fd : streams.child) fd.reset();
  return Relay(port, std::move(streams), std::move(child_events), child).Run();
}

}  // namespace bulkhead::testbed
