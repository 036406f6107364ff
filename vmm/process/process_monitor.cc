#include "vmm/process/process_monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "vmm/process/printable.h"
#include "vmm/sandbox/seccomp_violation.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kEndTimeout = absl::Seconds(2);
constexpr int kTracedRetryMs = 100;
constexpr int kMutedRetryMs = 20;

// Keys of epoll events: a process's id, shifted; the low bits say which of its descriptors.
constexpr uint64_t kWakeUpKey = 0;
constexpr uint64_t kLauncherKey = 1;
constexpr uint64_t ExitKey(uint64_t id) { return id << 2; }
constexpr uint64_t OutputKey(uint64_t id) { return id << 2 | 1; }
constexpr uint64_t ViolationKey(uint64_t id) { return id << 2 | 2; }

// The thread stands still meanwhile. Its process may have named it: escaped. Empty: unknown.
std::string ThreadName(pid_t thread) {
  std::string name;
  std::ifstream comm(absl::StrCat("/proc/", thread, "/comm"));
  std::getline(comm, name);
  return Printable(name);
}

absl::Status Register(int epoll, int fd, uint64_t key) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = key;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, "epoll_ctl");
}

}  // namespace

absl::StatusOr<ExitInfo> MonitoredProcess::WaitForExit(absl::Duration timeout) const {
  const absl::Time deadline = SteadyNow() + timeout;
  absl::MutexLock lock(&mutex_);
  while (!exit_.has_value()) {
    if (!ended_.WaitUntil(&mutex_, deadline)) {
      if (exit_.has_value()) break;
      return absl::DeadlineExceededError("the process is still alive");
    }
  }
  return *exit_;
}

absl::StatusOr<std::unique_ptr<ProcessMonitor>> ProcessMonitor::Create(
    std::unique_ptr<Launcher> launcher, std::function<void()> on_launcher_end) {
  UniqueFd null_device(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null_device.ok()) return ErrnoToStatus(errno, "open /dev/null");
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.ok()) return ErrnoToStatus(errno, "epoll_create1");
  ASSIGN_OR_RETURN(EventFd wake_up, EventFd::Create());
  RETURN_IF_ERROR(Register(epoll.get(), wake_up.fd(), kWakeUpKey));
  RETURN_IF_ERROR(Register(epoll.get(), launcher->exit_fd(), kLauncherKey));
  std::unique_ptr<ProcessMonitor> monitor(
      new ProcessMonitor(std::move(null_device), std::move(epoll), std::move(wake_up),
                         std::move(launcher), std::move(on_launcher_end)));
  monitor->thread_ = std::thread([m = monitor.get()] { m->Run(); });
  return monitor;
}

ProcessMonitor::~ProcessMonitor() {
  KillAll();
  thread_.join();
}

void ProcessMonitor::KillAll() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  launcher_->Stop();
  wake_up_.Signal();
}

absl::StatusOr<std::shared_ptr<MonitoredProcess>> ProcessMonitor::Start(
    const ProcessSpec& spec, UniqueFd output, std::shared_ptr<ProcessObserver> observer,
    const Launcher::Limits& limits) {
  ASSIGN_OR_RETURN(LaunchedProcess launched, launcher_->Launch(spec, limits));
  Arrival arrival;
  arrival.process.reset(new MonitoredProcess(std::move(launched), spec.sandbox, std::move(output),
                                             std::move(observer)));
  absl::Status status = absl::UnavailableError("the VM is ending");
  {
    absl::MutexLock lock(&mutex_);
    if (!stopping_) {
      arrivals_.push_back(&arrival);
      wake_up_.Signal();
      const auto watched = [&arrival] { return arrival.result.has_value(); };
      mutex_.Await(absl::Condition(&watched));  // short: the monitor's thread does not block
      status = *arrival.result;
    }
  }
  if (status.ok()) return arrival.process;
  arrival.process->Kill();
  arrival.process->process_.Wait(kEndTimeout).status().IgnoreError();
  return status;
}

void ProcessMonitor::Run() {
  prctl(PR_SET_NAME, "device-monitor");
  while (true) {
    HandleEvents(/*limit_ms=*/-1);
    if (TakeArrivals()) break;
  }
  EndAll();
}

void ProcessMonitor::HandleEvents(int limit_ms) {
  if (!traced_.empty()) limit_ms = kTracedRetryMs;  // no event reports their release
  if (!muted_.empty()) limit_ms = kMutedRetryMs;
  std::array<epoll_event, 16> events;
  const int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), limit_ms);
  for (int i = 0; i < n; ++i) HandleEvent(events[i].data.u64, events[i].events);
  for (const uint64_t id : std::exchange(traced_, {})) HandleEvent(ExitKey(id), EPOLLIN);
  if (!muted_.empty()) ResumeReading();
}

void ProcessMonitor::HandleEvent(uint64_t key, uint32_t events) {
  if (key == kWakeUpKey) {
    wake_up_.Drain();
    return;
  }
  if (key == kLauncherKey) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, launcher_->exit_fd(), nullptr);
    on_launcher_end_();
    return;
  }
  const uint64_t id = key >> 2;
  const auto found = processes_.find(id);
  if (found == processes_.end()) return;
  if (key == ExitKey(id)) {
    Reap(id);
  } else if (key == ViolationKey(id)) {
    if ((events & EPOLLIN) != 0) {
      ReadViolation(*found->second);
    } else {
      // The process dies. This would be reported again and again until it is dead, and
      // SECCOMP_IOCTL_NOTIF_RECV could wait for ever.
      CloseViolations(*found->second);
    }
  } else {
    ReadOutputWithin(id, *found->second);
  }
}

void ProcessMonitor::EndAll() {
  for (const auto& [id, process] : processes_) process->Kill();
  const absl::Time deadline = SteadyNow() + kEndTimeout;
  while (!processes_.empty() && SteadyNow() < deadline) HandleEvents(/*limit_ms=*/100);
  for (const auto& [id, process] : processes_) {
    if (process->cgroup_ != nullptr) process->cgroup_->Kill();
    LogError(absl::StrCat("process ", process->pid(), " was killed but is still alive after ",
                          absl::FormatDuration(kEndTimeout)));
  }
}

bool ProcessMonitor::TakeArrivals() {
  absl::MutexLock lock(&mutex_);
  for (Arrival* arrival : std::exchange(arrivals_, {})) arrival->result = Adopt(arrival->process);
  return stopping_;
}

absl::Status ProcessMonitor::Adopt(const std::shared_ptr<MonitoredProcess>& process) {
  const uint64_t id = next_id_++;
  RETURN_IF_ERROR(Register(epoll_.get(), process->output_.get(), OutputKey(id)));
  if (process->violations_.ok()) {
    RETURN_IF_ERROR(Register(epoll_.get(), process->violations_.get(), ViolationKey(id)));
  }
  RETURN_IF_ERROR(Register(epoll_.get(), process->process_.fd(), ExitKey(id)));
  processes_.emplace(id, process);
  return absl::OkStatus();
}

void ProcessMonitor::ReadOutput(MonitoredProcess& process) {
  // One read at a time: a process that prints without end must not delay other processes' events.
  std::array<char, 16 * 1024> buffer;
  const ssize_t n = read(process.output_.get(), buffer.data(), buffer.size());
  if (n > 0) {
    process.bytes_in_window_ += static_cast<size_t>(n);
    process.observer_->OnOutput(absl::string_view(buffer.data(), static_cast<size_t>(n)));
  } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
    process.output_.reset();  // also leaves the epoll set
  }
}

void ProcessMonitor::ReadOutputWithin(uint64_t id, MonitoredProcess& process) {
  const absl::Time now = SteadyNow();
  if (now >= process.window_ends_) {
    process.window_ends_ = now + kWindow;
    process.bytes_in_window_ = 0;
  }
  if (process.bytes_in_window_ < kMaxBytesInWindow) return ReadOutput(process);
  // Else a process that prints without end has this thread, and with it a processor, do the same.
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, process.output_.get(), nullptr);
  muted_.insert(id);
}

void ProcessMonitor::ResumeReading() {
  const absl::Time now = SteadyNow();
  std::erase_if(muted_, [&](uint64_t id) {
    const auto found = processes_.find(id);
    if (found == processes_.end()) return true;
    const MonitoredProcess& process = *found->second;
    return now >= process.window_ends_ &&
           Register(epoll_.get(), process.output_.get(), OutputKey(id)).ok();
  });
}

void ProcessMonitor::ReadViolation(MonitoredProcess& process) {
  seccomp_notif notification = {};
  if (ioctl(process.violations_.get(), SECCOMP_IOCTL_NOTIF_RECV, &notification) == 0) {
    process.observer_->OnViolation(DescribeViolation(notification, ThreadName(notification.pid)));
    process.Kill();
  } else if (errno == EINTR || errno == ENOENT) {
    return;  // the thread that called was interrupted
  }
  // It has been killed, or is dead. Closed, since it stays readable.
  CloseViolations(process);
}

void ProcessMonitor::CloseViolations(MonitoredProcess& process) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, process.violations_.get(), nullptr);
  process.violations_.reset();
}

void ProcessMonitor::Reap(uint64_t id) {
  const std::shared_ptr<MonitoredProcess> process = processes_.at(id);
  const absl::StatusOr<ExitInfo> exit = process->process_.Wait(absl::ZeroDuration());
  if (absl::IsDeadlineExceeded(exit.status())) {
    // Its pidfd stays readable. Remove it from the epoll set, else this thread would spin.
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, process->process_.fd(), nullptr);
    traced_.insert(id);
    return;
  }
  // Without a PID namespace of its own, what it has forked lives on.
  if (process->cgroup_ != nullptr && !process->layers_.has(SandboxLayer::kPid)) {
    process->cgroup_->Kill();
  }
  // On an error another waiter has reaped the process, and its exit code is unknown.
  const ExitInfo info = exit.value_or(ExitInfo{.signalled = false, .code = -1});
  process->observer_->OnExit(info);
  // A pipe holds 64 KiB by default. The bound keeps another writer from occupying this thread.
  for (int i = 0; i < 8 && process->output_.ok(); ++i) ReadOutput(*process);
  process->observer_->OnOutputEnd();
  process->observer_.reset();
  process->output_.reset();
  process->violations_.reset();
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, process->process_.fd(), nullptr);
  processes_.erase(id);
  absl::MutexLock lock(&process->mutex_);
  process->exit_ = info;
  process->ended_.SignalAll();
}

}  // namespace bulkhead::vmm
