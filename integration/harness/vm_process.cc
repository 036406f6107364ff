#include "integration/harness/vm_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

extern char** environ;

namespace bulkhead::integration {
namespace {

constexpr size_t kShownTail = 4000;

std::string Tail(const std::string& text) {
  return text.size() <= kShownTail ? text : text.substr(text.size() - kShownTail);
}

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return ErrnoToStatus(errno, "pipe2");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(in)), {});
}

}  // namespace

std::string DataFile(absl::string_view path) {
  const char* runfiles = getenv("TEST_SRCDIR");
  const std::string root = runfiles == nullptr ? "." : runfiles;
  constexpr absl::string_view kExternal = "external/";
  if (path.substr(0, kExternal.size()) == kExternal) {
    return absl::StrCat(root, "/", path.substr(kExternal.size()));
  }
  return absl::StrCat(root, "/bulkhead/", path);
}

absl::StatusOr<std::unique_ptr<VmProcess>> VmProcess::Start(const std::vector<std::string>& flags,
                                                            const std::string& shell) {
  // A guest that is gone must not end the test by SIGPIPE.
  signal(SIGPIPE, SIG_IGN);
  // For control sockets: a test's sandbox has no writable /run.
  if (const char* folder = getenv("TEST_TMPDIR"); folder != nullptr) {
    setenv("BULKHEAD_RUNTIME_DIR", folder, /*overwrite=*/0);
  }
  ASSIGN_OR_RETURN(Pipe input, MakePipe());
  ASSIGN_OR_RETURN(Pipe output, MakePipe());
  ASSIGN_OR_RETURN(Pipe log, MakePipe());

  std::vector<std::string> args = {DataFile("vmm/vmm")};
  if (!shell.empty()) {
    args.insert(args.begin(), {"/bin/sh", "-c", absl::StrCat(shell, "; exec \"$0\" \"$@\"")});
  }
  const std::string binary = args[0];
  args.insert(args.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.read_end.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.write_end.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, log.write_end.get(), STDERR_FILENO);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, binary.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoToStatus(error, absl::StrCat("posix_spawn of ", binary));

  ASSIGN_OR_RETURN(PidFd process, PidFd::Open(pid));
  std::unique_ptr<VmProcess> vm(new VmProcess(std::move(process)));
  vm->input_ = std::move(input.write_end);
  vm->output_.fd = std::move(output.read_end);
  vm->log_.fd = std::move(log.read_end);
  return vm;
}

VmProcess::~VmProcess() {
  if (reaped_) return;
  (void)process_.Signal(SIGKILL);
  (void)process_.Wait(absl::Seconds(10));
}

bool VmProcess::ReadSome(absl::Time deadline) {
  pollfd polled[2] = {{.fd = output_.fd.get(), .events = POLLIN, .revents = 0},
                      {.fd = log_.fd.get(), .events = POLLIN, .revents = 0}};
  if (!output_.fd.ok() && !log_.fd.ok()) return false;
  const timespec limit = absl::ToTimespec(std::max(deadline - SteadyNow(), absl::ZeroDuration()));
  if (ppoll(polled, 2, &limit, nullptr) <= 0) return true;
  Stream* const streams[2] = {&output_, &log_};
  for (int i = 0; i < 2; ++i) {
    if (polled[i].revents == 0) continue;
    char bytes[65536];
    const ssize_t n = read(streams[i]->fd.get(), bytes, sizeof(bytes));
    if (n > 0) {
      streams[i]->text.append(bytes, static_cast<size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      streams[i]->fd.reset();
    }
  }
  return true;
}

absl::StatusOr<std::string> VmProcess::WaitFor(Stream& stream, absl::string_view text,
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
    // What came so far is not searched again: a guest may write megabytes, some bytes at a time.
    if (stream.text.size() >= from + wanted.size()) from = stream.text.size() - wanted.size() + 1;
    const bool open = ReadSome(deadline);
    const bool late = SteadyNow() >= deadline;
    if (open && !late) continue;
    const std::string what = absl::StrCat(
        "waiting for \"", text, "\": ", open ? "time is up" : "the vmm ended",
        "\n--- end of output\n", Tail(output_.text), "\n--- end of log\n", Tail(log_.text));
    return open ? absl::DeadlineExceededError(what) : absl::AbortedError(what);
  }
}

absl::StatusOr<std::string> VmProcess::WaitForOutput(absl::string_view text,
                                                     absl::Duration timeout) {
  return WaitFor(output_, text, timeout);
}

absl::StatusOr<std::string> VmProcess::WaitForLog(absl::string_view text, absl::Duration timeout) {
  return WaitFor(log_, text, timeout);
}

absl::Status VmProcess::Type(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(input_.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus(errno, "write to the guest's console");
    text.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExitInfo> VmProcess::WaitForExit(absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  // Keep reading: a full pipe would keep the vmm from ending.
  while (ReadSome(deadline) && SteadyNow() < deadline) {
  }
  absl::StatusOr<ExitInfo> info = process_.Wait(std::max(deadline - SteadyNow(), absl::Seconds(1)));
  if (!info.ok()) {
    return absl::DeadlineExceededError(absl::StrCat(info.status().message(),
                                                    "\n--- end of output\n", Tail(output_.text),
                                                    "\n--- end of log\n", Tail(log_.text)));
  }
  reaped_ = true;
  return info;
}

std::vector<VmProcess::Child> VmProcess::Children() const {
  std::vector<Child> children;
  // Any thread of the vmm may have started a device.
  std::error_code ignored;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid(), "/task"), ignored)) {
    std::istringstream pids(ReadFile(absl::StrCat(task.path().string(), "/children")));
    pid_t child = 0;
    while (pids >> child) {
      // The command line's first string ends at its first zero byte.
      const std::string argv0 = ReadFile(absl::StrCat("/proc/", child, "/cmdline")).c_str();
      children.push_back({argv0.substr(argv0.rfind('/') + 1), child});
    }
  }
  return children;
}

pid_t VmProcess::PidOf(absl::string_view name) const {
  for (const Child& child : Children()) {
    if (child.name == name) return child.pid;
  }
  return kNoProcess;
}

}  // namespace bulkhead::integration
