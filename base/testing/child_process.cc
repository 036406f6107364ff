#include "base/testing/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/argument_pointers.h"
#include "base/errno_status.h"
#include "base/pipe.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead {
namespace {

constexpr size_t kShownTail = 4000;

absl::string_view Tail(absl::string_view text) {
  return text.substr(text.size() - std::min(text.size(), kShownTail));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::vector<std::string>& command, const std::vector<std::string>& environment,
    Streams streams) {
  const std::vector<char*> argv = ArgumentPointers(command);
  const std::vector<char*> envp = ArgumentPointers(environment);
  ASSIGN_OR_RETURN(Pipe input, CreatePipe());
  ASSIGN_OR_RETURN(Pipe output, CreatePipe());
  ASSIGN_OR_RETURN(Pipe error, CreatePipe());
  int terminal = -1;
  const bool has_terminal = streams == Streams::kTerminal;
  const pid_t pid = has_terminal ? forkpty(&terminal, nullptr, nullptr, nullptr) : fork();
  if (pid < 0) return ErrnoToStatus(errno, "fork");
  if (pid == 0) {
    // Only async-signal-safe calls from here.
    if (!has_terminal) {
      dup2(input.read_end.get(), STDIN_FILENO);
      dup2(output.write_end.get(), STDOUT_FILENO);
      dup2(error.write_end.get(), STDERR_FILENO);
    }
    execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  ASSIGN_OR_RETURN(PidFd process, PidFd::Open(pid));
  std::unique_ptr<ChildProcess> child(new ChildProcess(std::move(process)));
  if (has_terminal) {
    fcntl(terminal, F_SETFD, FD_CLOEXEC);
    child->output_.fd.reset(terminal);
    child->input_.reset(fcntl(terminal, F_DUPFD_CLOEXEC, 0));
  } else {
    child->input_ = std::move(input.write_end);
    child->output_.fd = std::move(output.read_end);
    child->error_.fd = std::move(error.read_end);
  }
  return child;
}

ChildProcess::~ChildProcess() {
  if (reaped_) return;
  (void)process_.Signal(SIGKILL);
  (void)process_.Wait(absl::Seconds(10));
}

bool ChildProcess::ReadSome(absl::Time deadline) {
  if (!output_.fd.ok() && !error_.fd.ok()) return false;
  pollfd polled[] = {{.fd = output_.fd.get(), .events = POLLIN, .revents = 0},
                     {.fd = error_.fd.get(), .events = POLLIN, .revents = 0}};
  const timespec limit = absl::ToTimespec(std::max(deadline - SteadyNow(), absl::ZeroDuration()));
  if (ppoll(polled, 2, &limit, nullptr) <= 0) return true;
  Stream* const streams[] = {&output_, &error_};
  for (int i = 0; i < 2; ++i) {
    if (polled[i].revents == 0) continue;
    char bytes[65536];
    const ssize_t n = read(polled[i].fd, bytes, sizeof(bytes));
    if (n > 0) {
      streams[i]->text.append(bytes, static_cast<size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      streams[i]->fd.reset();
    }
  }
  return true;
}

std::string ChildProcess::EndOfOutputs() const {
  return absl::StrCat("\n--- end of output\n", Tail(output_.text), "\n--- end of error\n",
                      Tail(error_.text));
}

absl::StatusOr<std::string> ChildProcess::WaitFor(Stream& stream, absl::string_view text,
                                                  absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  const std::string wanted(text);
  size_t from = stream.consumed;
  while (true) {
    const size_t found = stream.text.find(wanted, from);
    if (found != std::string::npos) {
      std::string before = stream.text.substr(stream.consumed, found - stream.consumed);
      stream.consumed = found + text.size();
      return before;
    }
    // Do not search the same text again: a guest may write megabytes, some bytes at a time.
    if (stream.text.size() >= from + wanted.size()) from = stream.text.size() - wanted.size() + 1;
    const bool open = ReadSome(deadline);
    if (open && SteadyNow() < deadline) continue;
    const std::string what = absl::StrCat(
        "waiting for \"", text, "\": ", open ? "time is up" : "the process ended", EndOfOutputs());
    return open ? absl::DeadlineExceededError(what) : absl::AbortedError(what);
  }
}

absl::Status ChildProcess::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(input_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus(errno, "write to the process's standard input");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExitInfo> ChildProcess::WaitForExit(absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  // Keep reading: a full pipe would keep the process from ending.
  while (ReadSome(deadline) && SteadyNow() < deadline) {
  }
  absl::StatusOr<ExitInfo> info = process_.Wait(std::max(deadline - SteadyNow(), absl::Seconds(1)));
  if (!info.ok()) {
    return absl::DeadlineExceededError(absl::StrCat(info.status().message(), EndOfOutputs()));
  }
  reaped_ = true;
  return info;
}

}  // namespace bulkhead
