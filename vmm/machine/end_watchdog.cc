#include "vmm/machine/end_watchdog.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/running_time.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
// How long writing a line, and the exit actions, may take.
constexpr absl::Duration kCallTimeout = absl::Milliseconds(500);

void Sleep(absl::Duration time) {
  poll(nullptr, 0, static_cast<int>(absl::ToInt64Milliseconds(time)));
}

absl::Status StartThread(const char* name, std::function<void()> run) {
  const int error = StartDetachedThread(name, std::move(run));
  if (error == 0) return absl::OkStatus();
  return ErrnoToStatus(error, "starting the end watchdog's threads");
}

}  // namespace

absl::StatusOr<EndWatchdog*> EndWatchdog::Start(const Limits& limits) {
  ASSIGN_OR_RETURN(EventFd begun, EventFd::Create());
  // Never destroyed. If a thread cannot be started, those that were started wait for ever.
  auto* const watchdog = new EndWatchdog(limits, std::move(begun));
  RETURN_IF_ERROR(watchdog->logger_.Start());
  RETURN_IF_ERROR(watchdog->action_caller_.Start());
  RETURN_IF_ERROR(StartThread("end-watchdog", [watchdog] { watchdog->Run(); }));
  return watchdog;
}

absl::Status EndWatchdog::Helper::Start() {
  return StartThread("end-helper", [this] { Run(); });
}

void EndWatchdog::Helper::CallBounded(std::function<void()> act) {
  const absl::Time deadline = SteadyNow() + kCallTimeout;
  absl::MutexLock lock(&mutex_);
  if (act_) return;
  act_ = std::move(act);
  changed_.SignalAll();
  while (act_ && changed_.WaitUntil(&mutex_, deadline)) {
  }
}

void EndWatchdog::Helper::Run() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    while (!act_) changed_.Wait(&mutex_);
    const std::function<void()> act = act_;
    mutex_.Unlock();
    act();
    mutex_.Lock();
    act_ = nullptr;
    changed_.SignalAll();
  }
}

void EndWatchdog::Begin(int exit_code) {
  {
    absl::MutexLock lock(&code_mutex_);
    if (exit_code_.has_value()) return;
    exit_code_ = exit_code;
  }
  begun_.Signal();
}

void EndWatchdog::SetStep(std::function<std::string()> describe) {
  absl::MutexLock lock(&step_mutex_);
  step_ = std::move(describe);
}

EndWatchdog::ExitAction EndWatchdog::AddExitAction(std::function<void()> act) {
  absl::MutexLock lock(&actions_mutex_);
  exit_actions_[++next_id_] = std::move(act);
  return ExitAction(this, next_id_);
}

EndWatchdog::ExitAction::~ExitAction() {
  if (watchdog_ == nullptr) return;
  absl::MutexLock lock(&watchdog_->actions_mutex_);
  watchdog_->exit_actions_.erase(id_);
}

int EndWatchdog::AwaitBegin() {
  while (true) {
    pollfd polled[] = {{.fd = begun_.fd(), .events = POLLIN, .revents = 0},
                       {.fd = limits_.exit_request_fd, .events = POLLIN, .revents = 0}};
    // EINVAL: RLIMIT_NOFILE is below 2.
    if (poll(polled, 2, -1) < 0 && errno != EINTR) Sleep(kTick);
    // The thread that should read the request may be stuck.
    if (polled[1].revents != 0) Begin(limits_.exit_request_code);
    absl::MutexLock lock(&code_mutex_);
    if (exit_code_.has_value()) return *exit_code_;
  }
}

void EndWatchdog::Run() {
  const int exit_code = AwaitBegin();
  RunningTime time(kTick, SteadyNow());
  bool warned = false;
  while (true) {
    const absl::Duration passed = time.Advance(SteadyNow());
    if (passed >= limits_.exit_after) Exit(exit_code);
    if (!warned && passed >= limits_.warn_after) {
      warned = true;
      logger_.CallBounded([this] { LogWarning(absl::StrCat("the VM's end waits for ", Step())); });
    }
    Sleep(kTick);
  }
}

std::string EndWatchdog::Step() {
  absl::MutexLock lock(&step_mutex_);
  return step_ ? step_() : "the threads of the vmm";
}

void EndWatchdog::CallExitActions() {
  absl::MutexLock lock(&actions_mutex_);
  for (const auto& [id, act] : exit_actions_) act();
}

void EndWatchdog::Exit(int exit_code) {
  logger_.CallBounded([this] {
    LogError(absl::StrCat("the VM has not ended within ", absl::FormatDuration(limits_.exit_after),
                          ", waiting for ", Step(), ": killing the remaining processes"));
  });
  action_caller_.CallBounded([this] { CallExitActions(); });
  FlushLog(kCallTimeout);
  _exit(exit_code);
}

}  // namespace bulkhead::vmm
