#include "tools/vmctl/testing/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

constexpr int kDeadlineMs = 60'000;
constexpr absl::Duration kDeadline = absl::Milliseconds(kDeadlineMs);

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

struct Pipe {
  Pipe() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
  }
  UniqueFd read_end;
  UniqueFd write_end;
};

}  // namespace

std::unique_ptr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& command,
                                                  const std::vector<std::string>& environment,
                                                  Streams streams) {
  const std::vector<char*> argv = Pointers(command);
  const std::vector<char*> envp = Pointers(environment);
  Pipe input;
  Pipe output;
  Pipe error;
  int terminal = -1;
  const bool has_terminal = streams == Streams::kTerminal;
  const pid_t pid = has_terminal ? forkpty(&terminal, nullptr, nullptr, nullptr) : fork();
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
  EXPECT_GT(pid, 0) << strerror(errno);
  absl::StatusOr<PidFd> process = PidFd::Open(pid);
  EXPECT_TRUE(process.ok()) << process.status();
  std::unique_ptr<ChildProcess> child(new ChildProcess(*std::move(process)));
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
  (void)process_.Wait(kDeadline);
}

bool ChildProcess::ReadSome() {
  pollfd polled[] = {{.fd = output_.fd.get(), .events = POLLIN, .revents = 0},
                     {.fd = error_.fd.get(), .events = POLLIN, .revents = 0}};
  if (!output_.fd.ok() && !error_.fd.ok()) return false;
  if (poll(polled, 2, kDeadlineMs) <= 0) {
    ADD_FAILURE() << "nothing more came in time; output so far:\n"
                  << output_.text << "\nand error:\n"
                  << error_.text;
    return false;
  }
  Stream* const streams[] = {&output_, &error_};
  for (int i = 0; i < 2; ++i) {
    if (polled[i].revents == 0) continue;
    char bytes[4096];
    const ssize_t count = read(polled[i].fd, bytes, sizeof(bytes));
    if (count > 0) {
      streams[i]->text.append(bytes, static_cast<size_t>(count));
    } else {
      streams[i]->fd.reset();
    }
  }
  return true;
}

std::string ChildProcess::WaitFor(Stream& stream, absl::string_view text) {
  while (true) {
    const size_t found = stream.text.find(std::string(text), stream.consumed);
    if (found != std::string::npos) {
      std::string before = stream.text.substr(stream.consumed, found - stream.consumed);
      stream.consumed = found + text.size();
      return before;
    }
    if (!stream.fd.ok() || !ReadSome()) {
      ADD_FAILURE() << "\"" << text << "\" did not come; output:\n"
                    << output_.text << "\nerror:\n"
                    << error_.text;
      return "";
    }
  }
}

std::string ChildProcess::WaitForOutput(absl::string_view text) { return WaitFor(output_, text); }

std::string ChildProcess::WaitForError(absl::string_view text) { return WaitFor(error_, text); }

void ChildProcess::Write(absl::string_view bytes) {
  EXPECT_EQ(write(input_.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()))
      << strerror(errno);
}

void ChildProcess::Signal(int signal) { EXPECT_TRUE(process_.Signal(signal).ok()); }

std::string ChildProcess::WaitForEnd() {
  while (ReadSome()) {
  }
  const absl::StatusOr<ExitInfo> exit = process_.Wait(kDeadline);
  EXPECT_TRUE(exit.ok()) << exit.status();
  reaped_ = exit.ok();
  return exit.ok() ? exit->ToString() : "";
}

}  // namespace bulkhead::vmctl
