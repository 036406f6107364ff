#ifndef BULKHEAD_DEVICES_VHOST_USER_TIMER_H_
#define BULKHEAD_DEVICES_VHOST_USER_TIMER_H_

#include <errno.h>
#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"

namespace bulkhead::devices::vhost_user {

// Calls back once, after a while. Single-threaded.
class Timer {
 public:
  ~Timer() {
    if (fd_.ok()) services_->Unwatch(fd_.get());
  }
  // Once. `services` outlives this.
  absl::Status Start(DeviceServices& services, absl::AnyInvocable<void()> on_time) {
    fd_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!fd_.ok()) return ErrnoToStatus(errno, "timerfd_create");
    services_ = &services;
    on_time_ = std::move(on_time);
    return services.Watch(fd_.get(), [this] { Poll(); });
  }
  // Instead of what was set before; zero: never.
  void Set(absl::Duration from_now) {
    itimerspec time = {};
    time.it_value = absl::ToTimespec(from_now);
    timerfd_settime(fd_.get(), 0, &time, nullptr);
  }
  void Poll() {
    uint64_t times;
    if (read(fd_.get(), &times, sizeof(times)) == sizeof(times)) on_time_();
  }

 private:
  UniqueFd fd_;
  DeviceServices* services_ = nullptr;
  absl::AnyInvocable<void()> on_time_;
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_TIMER_H_
