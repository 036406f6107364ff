// The rate limits of a BlockDevice. While one holds, chains wait in their queues, and a timer ends
// that: nothing polls.
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "devices/virtio_blk/block_device.h"

namespace bulkhead::devices::virtio {

absl::Status BlockDevice::StartLimiter() {
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.ok()) return ErrnoToStatus(errno, "timerfd_create");
  RETURN_IF_ERROR(host_->Watch(timer.get(), [this] { OnLimitTimer(); }));
  limit_timer_ = std::move(timer);
  limiter_.emplace(options_.limits);
  limited_queues_.resize(options_.queues);
  return absl::OkStatus();
}

bool BlockDevice::IsLimited(uint32_t queue) {
  if (!is_limited_) {
    const absl::Duration wait = limiter_->Wait(SteadyNow());
    if (wait == absl::ZeroDuration()) return false;
    itimerspec once{};
    once.it_value = absl::ToTimespec(absl::Ceil(wait, absl::Nanoseconds(1)));
    timerfd_settime(limit_timer_.get(), 0, &once, nullptr);
    is_limited_ = true;
    ++limited_;
  }
  limited_queues_[queue] = true;
  return true;
}

// One queue, in turns: what it leaves is for others.
void BlockDevice::ServeNextLimited() {
  for (uint32_t i = 0; i < options_.queues; ++i) {
    const uint32_t queue = (next_limited_ + i) % options_.queues;
    if (!limited_queues_[queue]) continue;
    limited_queues_[queue] = false;
    next_limited_ = queue + 1;
    services_->ServeLater(queue);
    return;
  }
}

void BlockDevice::ServeOtherLimited() {
  if (!is_limited_ && limiter_->Wait(SteadyNow()) == absl::ZeroDuration()) ServeNextLimited();
}

void BlockDevice::OnLimitTimer() {
  uint64_t expirations;
  if (read(limit_timer_.get(), &expirations, sizeof(expirations)) < 0) return;
  is_limited_ = false;
  ServeNextLimited();
}

}  // namespace bulkhead::devices::virtio
