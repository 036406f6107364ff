#ifndef BULKHEAD_VMM_SUPERVISOR_ABSENCE_H_
#define BULKHEAD_VMM_SUPERVISOR_ABSENCE_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/supervisor/device_clock.h"

namespace bulkhead::vmm {

// Holds the VM while a device that the guest uses is away, or waits for its back end. The vmm
// cannot see what the guest waits for: it may be a request in a queue. DeviceClock's thread begins
// and ends a hold, so it is in time even if the device's supervisor is busy. Thread-safe.
class Absence final : private DeviceClock::Client {
 public:
  struct Options {
    absl::Duration before_hold = absl::Seconds(1);  // as long as an access waits before a hold
    absl::Duration timeout;                         // accesses do not wait for longer than that
    // Whether the guest uses the device. All of these are called on any thread, one at a time, and
    // must return at once.
    std::function<bool()> is_used;
    // Whether the device's process says that it waits for its back end. Not trusted: it can hold
    // the VM for `timeout` at most, as by leaving an access unanswered. Asked whenever the clock
    // looks, which is each time that any device is asked for its heartbeat.
    std::function<bool()> awaits_back_end = [] { return false; };
    std::function<void(bool)> hold;
  };

  // Errors: as pthread_create(3).
  static absl::StatusOr<std::unique_ptr<Absence>> Create(Options options);
  // Neither function is called any more; a hold stays.
  ~Absence();

  // The device is away since then. Called again: since another time.
  void Begin(absl::Time since);
  // The device is back, or accesses do not wait for it any more.
  void End();

 private:
  Absence(DeviceClock& clock, Options options) : clock_(clock), options_(std::move(options)) {}

  absl::Time Look(absl::Time now, DeviceClock::Demands& demands) override;
  bool IsDue(absl::Time since, absl::Time now) const {
    return since != absl::InfiniteFuture() && now >= since + options_.before_hold &&
           now < since + options_.timeout;
  }

  DeviceClock& clock_;
  const Options options_;
  // Guarded by the clock.
  absl::Time since_ = absl::InfiniteFuture();
  absl::Time back_end_since_ = absl::InfiniteFuture();  // when its wait was seen first
  bool held_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_ABSENCE_H_
