#include "vmm/machine/end_watchdog.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
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
// What writing a line and the last acts may take.
constexpr int kMomentMilliseconds = 500;

// Calls `act`, and goes on after a moment whether it has returned or not: it may stand at a
// terminal that nobody reads, or at a lock.
void CallForAMoment(std::function<void()> act) {
  absl::StatusOr<EventFd> created = EventFd::Create();
  if (!created.ok()) return;
  const auto done = std::make_shared<EventFd>(*std::move(created));
  if (StartDetachedThread("last-words", [done, act = std::move(act)] {
        act();
        done->Signal();
      }) != 0) {
    return;
  }
  pollfd polled = {.fd = done->fd(), .events = POLLIN, .revents = 0};
  poll(&polled, 1, kMomentMilliseconds);
}

}  // namespace

absl::StatusOr<EndWatchdog*> EndWatchdog::Start(const Limits& limits) {
  ASSIGN_OR_RETURN(EventFd begun, EventFd::Create());
  auto* const watchdog = new EndWatchdog(limits, std::move(begun));
  if (const int error = StartDetachedThread("end-watchdog", [watchdog] { watchdog->Run(); });
      error != 0) {
    delete watchdog;
    return ErrnoToStatus(error, "starting the thread of the end's watchdog");
  }
  return watchdog;
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

EndWatchdog::LastAct EndWatchdog::AddLastAct(std::function<void()> act) {
  absl::MutexLock lock(&acts_mutex_);
  last_acts_[++next_id_] = std::move(act);
  return LastAct(this, next_id_);
}

EndWatchdog::LastAct::~LastAct() {
  if (watchdog_ == nullptr) return;
  absl::MutexLock lock(&watchdog_->acts_mutex_);
  watchdog_->last_acts_.erase(id_);
}

int EndWatchdog::AwaitBegin() {
  while (true) {
    pollfd polled[] = {{.fd = begun_.fd(), .events = POLLIN, .revents = 0},
                       {.fd = limits_.exit_request_fd, .events = POLLIN, .revents = 0}};
    if (poll(polled, 2, -1) < 0) continue;
    // The thread that reads the request may be the one that is stuck.
    if (polled[1].revents != 0) Begin(limits_.exit_request_code);
    absl::MutexLock lock(&code_mutex_);
    if (exit_code_.has_value()) return *exit_code_;
  }
}

void EndWatchdog::Run() {
  const int exit_code = AwaitBegin();
  RunningTime time(kTick, SteadyNow());
  bool said = false;
  while (true) {
    const absl::Duration passed = time.Advance(SteadyNow());
    if (passed >= limits_.leave_after) Leave(exit_code);
    if (!said && passed >= limits_.say_after) {
      said = true;
      CallForAMoment([this] { LogWarning(absl::StrCat("the end of the VM waits for ", Step())); });
    }
    poll(nullptr, 0, static_cast<int>(absl::ToInt64Milliseconds(kTick)));
  }
}

std::string EndWatchdog::Step() {
  absl::MutexLock lock(&step_mutex_);
  return step_ ? step_() : "the threads of the vmm";
}

void EndWatchdog::DoLastActs() {
  absl::MutexLock lock(&acts_mutex_);
  for (const auto& [id, act] : last_acts_) act();
}

void EndWatchdog::Leave(int exit_code) {
  CallForAMoment([this] {
    LogError(absl::StrCat("the VM has not ended within ", absl::FormatDuration(limits_.leave_after),
                          ", because of ", Step(), ": killing what is left"));
  });
  CallForAMoment([this] { DoLastActs(); });
  FlushLog(absl::Milliseconds(kMomentMilliseconds));
  _exit(exit_code);
}

}  // namespace bulkhead::vmm
