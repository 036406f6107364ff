#include "devices/host/limited_queues.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <utility>

#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::devices {

LimitedQueues::~LimitedQueues() {
  if (timer_.ok()) host_->Unwatch(timer_.get());
}

absl::Status LimitedQueues::Start(DeviceServices& host, const RateLimits& limits, uint32_t queues,
                                  RateDebt& debt, std::function<void()> on_tokens) {
  if (!limits.any()) return absl::OkStatus();
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.ok()) return ErrnoToStatus(errno, "timerfd_create");
  RETURN_IF_ERROR(host.Watch(timer.get(), [this] { OnTimer(); }));
  host_ = &host;
  timer_ = std::move(timer);
  on_tokens_ = std::move(on_tokens);
  limiter_.emplace(limits, &debt);
  waiting_.resize(queues);
  return absl::OkStatus();
}

// Without that a guest that makes the process crash would have a burst each time, or pay nothing
// for a large piece.
void LimitedQueues::Resume() {
  if (limiter_.has_value()) limiter_->Resume(SteadyNow());
}

void LimitedQueues::Take(uint64_t operations, uint64_t bytes) {
  if (limiter_.has_value()) limiter_->Take(operations, bytes, SteadyNow());
}

bool LimitedQueues::Waits(uint32_t queue) {
  if (!IsLimited()) return false;
  waiting_[queue] = true;
  return true;
}

bool LimitedQueues::IsLimited() {
  if (timer_runs_) return true;
  const absl::Duration wait = limiter_->Wait(SteadyNow());
  if (wait == absl::ZeroDuration()) return false;
  itimerspec once{};
  once.it_value = absl::ToTimespec(absl::Ceil(wait, absl::Nanoseconds(1)));
  timerfd_settime(timer_.get(), 0, &once, nullptr);
  timer_runs_ = true;
  ++times_limited_;
  return true;
}

std::optional<uint32_t> LimitedQueues::NextTurn() {
  for (uint32_t i = 0; i < waiting_.size(); ++i) {
    const uint32_t queue = (next_ + i) % static_cast<uint32_t>(waiting_.size());
    if (!waiting_[queue]) continue;
    if (IsLimited()) return std::nullopt;
    waiting_[queue] = false;
    next_ = queue + 1;
    return queue;
  }
  return std::nullopt;
}

void LimitedQueues::OnTimer() {
  uint64_t expirations;
  if (read(timer_.get(), &expirations, sizeof(expirations)) < 0) return;
  timer_runs_ = false;
  on_tokens_();
}

}  // namespace bulkhead::devices
