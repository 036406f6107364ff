#include "vmm/process/call_watchdog.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kStep = absl::Milliseconds(50);

// Only interrupts system calls: the handler is empty, and SA_RESTART is not set. (A real-time
// signal is lost if RLIMIT_SIGPENDING is used up.)
constexpr int kWakeSignal = SIGUSR2;

void InstallWakeSignal() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  sigaction(kWakeSignal, &action, nullptr);
}

}  // namespace

absl::StatusOr<CallWatchdog*> CallWatchdog::Get() {
  static absl::Mutex mutex(absl::kConstInit);
  static CallWatchdog* started = nullptr;
  absl::MutexLock lock(&mutex);
  if (started != nullptr) return started;
  ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  auto watchdog = absl::WrapUnique(new CallWatchdog(std::move(wake)));
  RETURN_IF_ERROR(watchdog->Start());
  started = watchdog.release();
  return started;
}

absl::Status CallWatchdog::Start() {
  InstallWakeSignal();
  if (const int error = StartDetachedThread("call-watchdog", [this] { Run(); }); error != 0) {
    return ErrnoToStatus(error, "starting the thread that watches calls to devices");
  }
  return absl::OkStatus();
}

void CallWatchdog::Run() {
  while (true) {
    wake_.Drain();  // before the check: a later change signals again
    absl::Duration left;
    {
      absl::MutexLock lock(&mutex_);
      const absl::Time now = SteadyNow();
      next_check_ = Check(now);
      left = std::max(next_check_ - now, absl::ZeroDuration());
    }
    const timespec limit = absl::ToTimespec(left);
    pollfd polled = {.fd = wake_.fd(), .events = POLLIN, .revents = 0};
    (void)ppoll(&polled, 1, left == absl::InfiniteDuration() ? nullptr : &limit, nullptr);
  }
}

absl::Time CallWatchdog::Check(absl::Time now) {
  absl::Time next = absl::InfiniteFuture();
  for (Guard* const call : calls_) {
    if (now < call->limit_) {
      next = std::min(next, call->limit_);
      continue;
    }
    if (!call->overdue_.has_value()) call->overdue_.emplace(kStep, now);
    if (call->overdue_->Advance(now) >= call->grace_) {
      if (!std::exchange(call->cut_, true)) shutdown(call->socket_, SHUT_RDWR);
      if (call->cancels_ != nullptr) call->cancels_->cut_ = true;
      pthread_kill(call->thread_, kWakeSignal);
    }
    next = std::min(next, now + kStep);
  }
  return next;
}

void CallWatchdog::CheckBy(absl::Time when) {
  if (when >= next_check_) return;  // the usual case: the next check is early enough
  next_check_ = when;
  wake_.Signal();
}

CallWatchdog::Guard::Guard(CallWatchdog& watchdog, int socket, absl::Duration limit,
                           absl::Duration grace, Guard* cancels)
    : watchdog_(watchdog),
      socket_(socket),
      cancels_(cancels),
      thread_(pthread_self()),
      limit_(SteadyNow() + limit),
      grace_(grace) {
  absl::MutexLock lock(&watchdog_.mutex_);
  watchdog_.calls_.insert(this);
  watchdog_.CheckBy(limit_);
}

CallWatchdog::Guard::~Guard() {
  absl::MutexLock lock(&watchdog_.mutex_);
  watchdog_.calls_.erase(this);
}

void CallWatchdog::Guard::Expire(absl::Duration grace) {
  const absl::Time now = SteadyNow();
  absl::MutexLock lock(&watchdog_.mutex_);
  limit_ = std::min(limit_, now);
  grace_ = std::min(grace_, grace);
  watchdog_.CheckBy(limit_);
}

bool CallWatchdog::Guard::cut() const {
  absl::MutexLock lock(&watchdog_.mutex_);
  return cut_;
}

}  // namespace bulkhead::vmm
