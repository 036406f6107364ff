#include "vmm/launcher/launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/errno_status.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "vmm/launcher/launch_message.h"
#include "vmm/launcher/launcher_process.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(10);
constexpr absl::Duration kKillTimeout = absl::Seconds(2);
// How often a wait asks whether it is cancelled.
constexpr absl::Duration kCheckInterval = absl::Milliseconds(100);

template <typename T>
absl::string_view AsBytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

// The text of a char array that need not end in a zero.
template <size_t kSize>
std::string Text(const char (&text)[kSize]) {
  return std::string(text, strnlen(text, kSize));
}

struct Announced {
  LauncherReport report;
  UniqueFd pid_fd;
};

absl::StatusOr<Announced> ReceiveLauncher(int socket) {
  ASSIGN_OR_RETURN(SocketMessage message,
                   ReceiveSocketMessage(socket, sizeof(LauncherReport), kStartTimeout));
  Announced announced;
  if (message.bytes.size() != sizeof(announced.report)) {
    return absl::InternalError("the launcher's report has a wrong size");
  }
  memcpy(&announced.report, message.bytes.data(), sizeof(announced.report));
  if (announced.report.error != 0) {
    return ErrnoToStatus(announced.report.error, Text(announced.report.call));
  }
  if (message.descriptors.size() != 1) return absl::InternalError("the launcher has no pidfd");
  announced.pid_fd = std::move(message.descriptors[0]);
  return announced;
}

}  // namespace

// What a launch has reported so far.
struct Launcher::Step {
  LaunchReport report;
  UniqueFd fd;
};

absl::StatusOr<std::unique_ptr<Launcher>> Launcher::Start(char** argv) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_SEQPACKET));
  ASSIGN_OR_RETURN(auto lifeline, CreateSocketPair(SOCK_SEQPACKET));
  ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  const pid_t maker = fork();
  if (maker < 0) return ErrnoToStatus(errno, "starting the launcher: fork");
  if (maker == 0) {
    sockets.first.reset();
    lifeline.first.reset();
    MakeLauncher(sockets.second.get(), lifeline.second.get(), argv);
  }
  sockets.second.reset();
  lifeline.second.reset();
  absl::StatusOr<Announced> launcher = ReceiveLauncher(sockets.first.get());
  std::unique_ptr<PidFd> init;
  if (launcher.ok() && launcher->report.has_pid_namespace != 0) {
    absl::StatusOr<Announced> second = ReceiveLauncher(sockets.first.get());
    if (second.ok()) {
      init = std::make_unique<PidFd>(std::move(second->pid_fd), second->report.pid);
    } else {
      launcher = second.status();
    }
  }
  while (waitpid(maker, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (!launcher.ok()) {
    return absl::Status(launcher.status().code(),
                        absl::StrCat("starting the launcher: ", launcher.status().message()));
  }
  const LauncherReport& report = launcher->report;
  return absl::WrapUnique(
      new Launcher(std::move(sockets.first), std::move(lifeline.first), std::move(stop),
                   PidFd(std::move(launcher->pid_fd), report.pid), std::move(init),
                   /*is_root=*/geteuid() == 0 && report.has_user_namespace == 0,
                   report.has_pid_namespace != 0 ? absl::OkStatus()
                                                 : ErrnoToStatus(report.obstacle, "unshare")));
}

Launcher::~Launcher() {
  // The kernel kills with init what is in its namespace. Init is dead only once all of that was
  // reaped, so it comes last. With groups to remove it ends after this process.
  const bool ends_init = init_ != nullptr && !has_groups_;
  if (ends_init) init_->Signal(SIGKILL).IgnoreError();
  launcher_.Signal(SIGKILL).IgnoreError();
  launcher_.Wait(kKillTimeout).status().IgnoreError();
  if (ends_init) init_->Wait(kKillTimeout).status().IgnoreError();
}

std::vector<pid_t> Launcher::pids() const {
  std::vector<pid_t> pids = {launcher_.pid()};
  if (init_ != nullptr) pids.push_back(init_->pid());
  return pids;
}

namespace {

absl::Status SendLeftover(int lifeline, const LeftoverRequest& request, const std::string& folder,
                          const std::vector<std::string>& names, int origin) {
  const UniqueFd opened(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!opened.ok()) return ErrnoToStatus(errno, folder);
  std::string bytes(AsBytes(request));
  for (const std::string& name : names) bytes.append(name.c_str(), name.size() + 1);
  std::vector<int> descriptors = {opened.get()};
  if (origin >= 0) descriptors.push_back(origin);
  return SendSocketMessage(lifeline, bytes, descriptors);
}

}  // namespace

absl::Status Launcher::RemoveSocketAtEnd(const std::string& path) {
  if (init_ == nullptr) return absl::OkStatus();
  struct stat file;
  if (lstat(path.c_str(), &file) != 0) return ErrnoToStatus(errno, path);
  const std::filesystem::path parts(path);
  const std::string folder = parts.parent_path();
  return SendLeftover(
      lifeline_.get(),
      {.kind = LeftoverRequest::kSocket, .device = file.st_dev, .inode = file.st_ino},
      folder.empty() ? "." : folder, {parts.filename()}, /*origin=*/-1);
}

absl::Status Launcher::RemoveGroupsAtEnd(const std::string& folder,
                                         const std::vector<std::string>& names, int origin) {
  if (init_ == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(
      SendLeftover(lifeline_.get(), {.kind = LeftoverRequest::kGroups}, folder, names, origin));
  has_groups_ = true;
  return absl::OkStatus();
}

absl::Status Launcher::Seal(SandboxLayers layers, uint32_t first_uid, uint32_t uids) {
  const SealRequest request = {.layers = layers.bits(), .first_uid = first_uid, .uids = uids};
  const LeftoverRequest nothing_more = {.kind = LeftoverRequest::kSeal};
  if (send(socket_.get(), &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request) ||
      (init_ != nullptr && send(lifeline_.get(), &nothing_more, sizeof(nothing_more),
                                MSG_NOSIGNAL) != sizeof(nothing_more))) {
    return ErrnoToStatus(errno, "sending to the launcher");
  }
  return absl::OkStatus();
}

void Launcher::Stop() { stop_.Signal(); }

absl::StatusOr<LaunchedProcess> Launcher::Launch(const ProcessSpec& spec, const Limits& limits) {
  const std::string& path = spec.binary.path();
  if (spec.binary.is_script() && spec.sandbox.layers.has(SandboxLayer::kMount)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     " is a script: its interpreter has no files in the sandbox. To run it "
                     "nevertheless: --sandbox=off"));
  }
  if (HasAbandoned(path)) {
    return absl::UnavailableError(absl::StrCat(
        "starting ", path, ": an earlier start still waits for the program's file system"));
  }
  const absl::Time deadline = SteadyNow() + limits.timeout;
  ASSIGN_OR_RETURN(auto status, CreateSocketPair(SOCK_SEQPACKET));
  RETURN_IF_ERROR(Send(spec, status.second.get(), limits, deadline));
  status.second.reset();
  const int socket = status.first.get();

  Step made;
  ASSIGN_OR_RETURN(const bool reported, Receive(socket, spec, limits, deadline, made));
  if (!reported) {
    return absl::UnavailableError(absl::StrCat("starting ", path, ": the launcher did not answer"));
  }
  if (!made.fd.ok()) return Refusal(spec, made);
  PidFd process(std::move(made.fd), made.report.pid);
  if (made.report.error != 0) {
    Abandon(path, std::move(process));
    return Refusal(spec, made);
  }
  Step confined;
  absl::StatusOr<bool> next = Receive(socket, spec, limits, deadline, confined);
  if (next.ok() && *next && confined.report.error == 0) {
    // The program's start closes the socket; only a failure says more.
    Step failure;
    next = Receive(socket, spec, limits, deadline, failure);
    if (next.ok() && !*next) {
      return LaunchedProcess{std::move(process), std::move(confined.fd)};
    }
    if (next.ok()) confined = std::move(failure);
  } else if (next.ok() && !*next) {
    // It was killed before it could report.
    next = absl::UnavailableError(absl::StrCat("starting ", path, ": the process was killed"));
  }
  Abandon(path, std::move(process));
  RETURN_IF_ERROR(next.status());
  return Refusal(spec, confined);
}

absl::Status Launcher::Send(const ProcessSpec& spec, int status, const Limits& limits,
                            absl::Time deadline) {
  const ProcessSandbox& sandbox = spec.sandbox;
  const bool other_user = sandbox.layers.has(SandboxLayer::kUid);
  const LaunchRequest request = {
      .layers = sandbox.layers.bits(),
      .uid = other_user ? sandbox.uid : geteuid(),
      .gid = other_user ? sandbox.gid : getegid(),
      .filter_instructions = static_cast<uint32_t>(sandbox.filter.size()),
      .arguments = static_cast<uint32_t>(spec.args.size() + 1),
      .environment = static_cast<uint32_t>(spec.environment.size()),
      .descriptors = static_cast<uint32_t>(spec.descriptors.size()),
      .is_script = spec.binary.is_script(),
      .has_cgroup = sandbox.cgroup != nullptr,
      .max_address_space_bytes = sandbox.max_address_space_bytes};
  std::string bytes(AsBytes(request));
  absl::StrAppend(&bytes, absl::string_view(reinterpret_cast<const char*>(sandbox.filter.data()),
                                            sandbox.filter.size() * sizeof(sock_filter)));
  const auto append = [&bytes](const std::string& text) {
    bytes.append(text.c_str(), text.size() + 1);
  };
  append(spec.binary.path());
  for (const std::string& text : spec.args) append(text);
  for (const std::string& text : spec.environment) append(text);
  if (bytes.size() > kMaxLaunchBytes || request.arguments > kMaxLaunchStrings) {
    return absl::InvalidArgumentError(absl::StrCat(
        "starting ", spec.binary.path(), ": its arguments are too long: ", kMaxLaunchStrings,
        " of together about ", kMaxLaunchBytes / 1024, " KiB are possible"));
  }
  std::vector<int> descriptors = {status, spec.binary.fd()};
  if (sandbox.cgroup != nullptr) descriptors.push_back(sandbox.cgroup->fd());
  descriptors.insert(descriptors.end(), spec.descriptors.begin(), spec.descriptors.end());
  while (true) {
    absl::Status sent = SendSocketMessage(socket_.get(), bytes, descriptors);
    if (absl::IsUnavailable(sent)) {
      return absl::UnavailableError(
          absl::StrCat("starting ", spec.binary.path(), ": the launcher is dead"));
    }
    if (!absl::IsResourceExhausted(sent)) return sent;
    // Either the launcher has yet to read earlier requests, or the host is short of memory.
    pollfd writable = {.fd = socket_.get(), .events = POLLOUT, .revents = 0};
    if (poll(&writable, 1, 0) > 0) return sent;
    RETURN_IF_ERROR(Await(socket_.get(), POLLOUT, spec, limits, deadline));
  }
}

absl::Status Launcher::Await(int fd, int16_t events, const ProcessSpec& spec, const Limits& limits,
                             absl::Time deadline) {
  const auto starting = [&spec](absl::string_view what) {
    return absl::StrCat("starting ", spec.binary.path(), ": ", what);
  };
  while (true) {
    const absl::Time now = SteadyNow();
    if (now >= deadline) {
      return absl::DeadlineExceededError(starting("the program's file system does not answer"));
    }
    pollfd fds[] = {{.fd = fd, .events = events, .revents = 0},
                    {.fd = stop_.fd(), .events = POLLIN, .revents = 0},
                    {.fd = launcher_.fd(), .events = POLLIN, .revents = 0}};
    const timespec wait = absl::ToTimespec(std::min(deadline - now, kCheckInterval));
    (void)ppoll(fds, 3, &wait, nullptr);
    if (fds[0].revents != 0) return absl::OkStatus();
    if (fds[1].revents != 0) return absl::UnavailableError("the VM is ending");
    if (fds[2].revents != 0) return absl::UnavailableError(starting("the launcher is dead"));
    if (limits.cancelled && limits.cancelled()) return absl::CancelledError(starting("cancelled"));
  }
}

absl::StatusOr<bool> Launcher::Receive(int status, const ProcessSpec& spec, const Limits& limits,
                                       absl::Time deadline, Step& step) {
  RETURN_IF_ERROR(Await(status, POLLIN, spec, limits, deadline));
  absl::StatusOr<SocketMessage> message =
      ReceiveSocketMessage(status, sizeof(LaunchReport), absl::ZeroDuration());
  if (absl::IsUnavailable(message.status())) return false;
  RETURN_IF_ERROR(message.status());
  if (message->bytes.size() != sizeof(step.report)) {
    return absl::InternalError("the launcher's report has a wrong size");
  }
  memcpy(&step.report, message->bytes.data(), sizeof(step.report));
  if (!message->descriptors.empty()) step.fd = std::move(message->descriptors[0]);
  return true;
}

absl::Status Launcher::Refusal(const ProcessSpec& spec, const Step& step) const {
  const LaunchReport& report = step.report;
  const std::string call = absl::StrCat(Text(report.call), " of ", spec.binary.path());
  if (report.layers == 0 && (report.error == ENOENT || report.error == EACCES) &&
      spec.sandbox.layers.has(SandboxLayer::kMount)) {
    return absl::FailedPreconditionError(absl::StrCat(
        call, ": ", strerror(report.error),
        ". In its sandbox a program has no files: it must be linked statically, and everybody must "
        "be allowed to execute it"));
  }
  if (report.layers == 0) return ErrnoToStatus(report.error, call);
  const SandboxLayers missing(report.layers);
  std::string why = std::string(ErrnoToStatus(report.error, Text(report.call)).message());
  if (missing.has(SandboxLayer::kPid) && !obstacle_.ok()) why = std::string(obstacle_.message());
  const bool one = missing.Names().size() == 1;
  return absl::FailedPreconditionError(absl::StrCat(
      "this host lacks the layer", one ? "" : "s", " \"", absl::StrJoin(missing.Names(), "\", \""),
      "\" of the sandbox (", why, "). To do without ", one ? "it" : "them",
      ": --sandbox-waive=", absl::StrJoin(missing.Names(), ",")));
}

void Launcher::Abandon(const std::string& path, PidFd process) {
  process.Signal(SIGKILL).IgnoreError();
  // Normally at once.
  if (!absl::IsDeadlineExceeded(process.Wait(kCheckInterval).status())) return;
  absl::MutexLock lock(&mutex_);
  abandoned_.emplace_back(path, std::move(process));
}

bool Launcher::HasAbandoned(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  abandoned_.remove_if([](const std::pair<std::string, PidFd>& each) {
    return !absl::IsDeadlineExceeded(each.second.Wait(absl::ZeroDuration()).status());
  });
  return std::any_of(abandoned_.begin(), abandoned_.end(),
                     [&](const auto& each) { return each.first == path; });
}

}  // namespace bulkhead::vmm
