#include "integration/testbed/launcher/session.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/errno_status.h"
#include "base/raw_terminal.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/taken_signals.h"
#include "base/unique_fd.h"

namespace bulkhead::testbed {
namespace {

constexpr absl::Duration kStartTimeout = absl::Minutes(2);  // 3 s where nothing else runs
// Of the kernel's console: its begin and its end. A kernel that dies says why first, and may then
// go on for ever.
constexpr size_t kConsoleBegin = 16 << 10;
constexpr size_t kConsoleEnd = 16 << 10;
constexpr size_t kOutputKept = 256 << 10;  // beyond it the command waits for our reader

WindowSize TerminalSize() {
  winsize size = {};
  ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);  // on failure 0 by 0: unknown
  return {size.ws_row, size.ws_col};
}

std::string WorkingDirectory() {
  char path[PATH_MAX];
  return getcwd(path, sizeof(path)) != nullptr ? path : "/";
}

int PollTimeoutMs(absl::Time deadline) {
  const absl::Duration left = deadline - SteadyNow();
  return left > absl::Hours(1) ? 3600 * 1000
                               : std::max<int>(0, absl::ToInt64Milliseconds(left) + 1);
}

}  // namespace

absl::StatusOr<UniqueFd> Session::TakeSignals() {
  return bulkhead::TakeSignals({SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH});
}

Session::Session(const Options& options, VirtualMachine& machine, UniqueFd signals)
    : options_(options),
      machine_(machine),
      signals_(std::move(signals)),
      start_(SteadyNow()),
      terminal_(isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0) {}

absl::StatusOr<int> Session::Run() {
  signal(SIGPIPE, SIG_IGN);
  RETURN_IF_ERROR(SendStart());
  std::optional<RawTerminal> raw;
  if (terminal_) raw.emplace(RawTerminal::Output::kUnchanged);
  return Loop();
}

absl::StatusOr<int> Session::Loop() {
  const absl::Time time_limit = start_ + options_.timeout;
  const absl::Time start_limit = start_ + kStartTimeout;
  while (!exited_ || !to_stdout_.empty() || !to_stderr_.empty()) {
    const bool may_read_input =
        started_ && !exited_ && input_open_ && unacknowledged_input_ < kStdinWindow;
    const bool may_read_agent =
        !exited_ && to_stdout_.size() < kOutputKept && to_stderr_.size() < kOutputKept;
    std::array<pollfd, 7> events = {
        pollfd{
            may_read_agent || !to_agent_.empty() ? machine_.agent_fd() : -1,
            static_cast<short>((may_read_agent ? POLLIN : 0) | (to_agent_.empty() ? 0 : POLLOUT)),
            0},
        pollfd{machine_.console_fd(), POLLIN, 0},
        pollfd{signals_.get(), POLLIN, 0},
        pollfd{to_stdout_.empty() ? -1 : STDOUT_FILENO, POLLOUT, 0},
        pollfd{to_stderr_.empty() ? -1 : STDERR_FILENO, POLLOUT, 0},
        pollfd{may_read_input ? STDIN_FILENO : -1, POLLIN, 0},
        pollfd{exited_ ? -1 : machine_.process_fd(), POLLIN, 0},
    };
    const absl::Time deadline = started_ ? time_limit : std::min(time_limit, start_limit);
    const int ready = poll(events.data(), events.size(), PollTimeoutMs(deadline));
    if (ready < 0 && errno != EINTR) return ErrnoToStatus(errno, "poll");
    if (SteadyNow() >= time_limit) {
      std::fprintf(stderr, "testbed: killed after the time limit of %s\n",
                   absl::FormatDuration(options_.timeout).c_str());
      return kTimedOut;
    }
    if (!started_ && SteadyNow() >= start_limit) {
      return absl::DeadlineExceededError(
          absl::StrCat("not up after ", absl::FormatDuration(kStartTimeout)));
    }
    if (ready <= 0) continue;
    if (events[2].revents != 0) {
      signalfd_siginfo info;
      if (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo != SIGWINCH) return 128 + static_cast<int>(info.ssi_signo);
        if (terminal_) SendWindowSize();
      }
    }
    if (events[1].revents != 0) ReadConsole();
    if ((events[0].revents & POLLOUT) != 0) RETURN_IF_ERROR(FlushToAgent());
    if ((events[0].revents & ~POLLOUT) != 0) RETURN_IF_ERROR(ReadAgent());
    if (events[3].revents != 0) RETURN_IF_ERROR(WriteOutput(STDOUT_FILENO, to_stdout_));
    if (events[4].revents != 0) RETURN_IF_ERROR(WriteOutput(STDERR_FILENO, to_stderr_));
    if (events[5].revents != 0) ReadInput();
  }
  return exit_code_;
}

absl::Status Session::SendStart() {
  StartRequest request;
  request.terminal = terminal_;
  if (terminal_) request.window = TerminalSize();
  request.unix_time_ns = absl::ToUnixNanos(absl::Now());
  request.entropy.resize(32);
  if (getrandom(request.entropy.data(), request.entropy.size(), 0) < 0) {
    return ErrnoToStatus(errno, "getrandom");
  }
  request.directory = WorkingDirectory();
  request.command = options_.command;
  for (char** entry = environ; *entry != nullptr; ++entry) request.environment.push_back(*entry);
  request.writable_folders = options_.writable_folders;
  const std::string payload = EncodeStart(request);
  if (payload.size() > kMaxPayload) {
    return absl::InvalidArgumentError("command and environment are too long");
  }
  AppendFrame(FrameType::kStart, payload, to_agent_);
  return absl::OkStatus();
}

absl::Status Session::FlushToAgent() {
  const ssize_t count = write(machine_.agent_fd(), to_agent_.data(), to_agent_.size());
  if (count > 0) to_agent_.erase(0, count);
  if (count < 0 && errno == EPIPE) return absl::UnavailableError("QEMU has ended");
  return absl::OkStatus();
}

absl::Status Session::ReadAgent() {
  char buffer[64 << 10];
  const ssize_t count = read(machine_.agent_fd(), buffer, sizeof(buffer));
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
  if (count <= 0) {
    ReadConsole();
    return absl::UnavailableError(started_ ? "the virtual machine ended under the command"
                                           : "the virtual machine did not start");
  }
  reader_.Append(absl::string_view(buffer, count));
  while (true) {
    absl::StatusOr<Frame> frame = reader_.Next();
    if (absl::IsUnavailable(frame.status())) return absl::OkStatus();
    RETURN_IF_ERROR(frame.status());
    RETURN_IF_ERROR(HandleFrame(*frame));
  }
}

absl::Status Session::HandleFrame(const Frame& frame) {
  switch (frame.type) {
    case FrameType::kBooted:
      return absl::OkStatus();
    case FrameType::kReady:
      started_ = true;
      if (options_.verbose) {
        absl::StrAppend(
            &to_stderr_, "testbed: up after ",
            absl::FormatDuration(absl::Trunc(SteadyNow() - start_, absl::Milliseconds(10))), " (",
            frame.payload, ")\n");
      }
      return absl::OkStatus();
    case FrameType::kStdout:
      to_stdout_ += frame.payload;
      return absl::OkStatus();
    case FrameType::kStderr:
      to_stderr_ += frame.payload;
      return absl::OkStatus();
    case FrameType::kStdinTaken: {
      ASSIGN_OR_RETURN(const uint32_t taken, DecodeNumber(frame.payload));
      unacknowledged_input_ -= std::min<size_t>(taken, unacknowledged_input_);
      return absl::OkStatus();
    }
    case FrameType::kExit: {
      ASSIGN_OR_RETURN(const uint32_t code, DecodeNumber(frame.payload));
      exit_code_ = static_cast<int>(code);
      exited_ = true;
      return absl::OkStatus();
    }
    case FrameType::kFailed:
      ReadConsole();
      return absl::InternalError(frame.payload);
    default:
      return absl::InternalError("unknown frame from the agent");
  }
}

// Writes no more than a pipe takes without blocking once it polls as writable, so that a
// reader who stops cannot hold up the time limit. Output without a reader is dropped.
absl::Status Session::WriteOutput(int fd, std::string& pending) {
  const ssize_t count = write(fd, pending.data(), std::min<size_t>(pending.size(), PIPE_BUF));
  if (count > 0) {
    pending.erase(0, count);
  } else if (count < 0 && errno == EPIPE) {
    pending.clear();
  } else if (count < 0 && errno != EINTR && errno != EAGAIN) {
    return ErrnoToStatus(errno, fd == STDOUT_FILENO ? "standard output" : "standard error");
  }
  return absl::OkStatus();
}

void Session::ReadInput() {
  char buffer[16 << 10];
  const size_t room = kStdinWindow - unacknowledged_input_;
  const ssize_t count = read(STDIN_FILENO, buffer, std::min(room, sizeof(buffer)));
  if (count > 0) {
    unacknowledged_input_ += count;
    AppendFrame(FrameType::kStdin, absl::string_view(buffer, count), to_agent_);
  } else if (count == 0 || (errno != EINTR && errno != EAGAIN)) {
    input_open_ = false;
    AppendFrame(FrameType::kStdinEnd, "", to_agent_);
  }
}

void Session::ReadConsole() {
  char buffer[16 << 10];
  ssize_t count;
  while ((count = read(machine_.console_fd(), buffer, sizeof(buffer))) > 0) {
    const absl::string_view text(buffer, count);
    console_.append(text.data(), text.size());
    if (console_.size() > kConsoleBegin + kConsoleEnd) {
      console_.replace(kConsoleBegin, console_.size() - kConsoleBegin - kConsoleEnd, "");
    }
    if (options_.show_console) to_stderr_.append(text.data(), text.size());
  }
}

void Session::SendWindowSize() {
  const WindowSize size = TerminalSize();
  AppendFrame(FrameType::kWindowSize,
              absl::string_view(reinterpret_cast<const char*>(&size), sizeof(size)), to_agent_);
}

}  // namespace bulkhead::testbed
