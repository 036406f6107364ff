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
// What writing a line and the last acts may take.
constexpr absl::Duration kMoment = absl::Milliseconds(500);

void Sleep(absl::Duration time) {
  poll(nullptr, 0, static_cast<int>(absl::ToInt64Milliseconds(time)));
}

absl::Status StartThread(const char* name, std::function<void()> run) {
  const int error = StartDetachedThread(name, std::move(run));
  if (error == 0) return absl::OkStatus();
  return ErrnoToStatus(error, "starting the threads of the end's watchdog");
}

}  // namespace

absl::StatusOr<EndWatchdog*> EndWatchdog::Start(const Limits& limits) {
  ASSIGN_OR_RETURN(EventFd begun, EventFd::Create());
  // If one thread is missing, the others wait for ever.
  auto* const watchdog = new EndWatchdog(limits, std::move(begun));
  RETURN_IF_ERROR(watchdog->speaker_.Start());
  RETURN_IF_ERROR(watchdog->actor_.Start());
  RETURN_IF_ERROR(StartThread("end-watchdog", [watchdog] { watchdog->Run(); }));
  return watchdog;
}

absl::Status EndWatchdog::Helper::Start() {
  return StartThread("end-helper", [this] { Run(); });
}

void EndWatchdog::Helper::CallForAMoment(std::function<void()> act) {
  const absl::Time deadline = SteadyNow() + kMoment;
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
    // EINVAL: RLIMIT_NOFILE is below 2.
    if (poll(polled, 2, -1) < 0 && errno != EINTR) Sleep(kTick);
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
      speaker_.CallForAMoment(
          [this] { LogWarning(absl::StrCat("the end of the VM waits for ", Step())); });
    }
    Sleep(kTick);
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
  speaker_.CallForAMoment([this] {
    LogError(absl::StrCat("the VM has not ended within ", absl::FormatDuration(limits_.leave_after),
                          ", because of ", Step(), ": killing what is left"));
  });
  actor_.CallForAMoment([this] { DoLastActs(); });
  FlushLog(kMoment);
  _exit(exit_code);
}

}  // namespace bulkhead::vmm
