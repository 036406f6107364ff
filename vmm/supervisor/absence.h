#ifndef BULKHEAD_VMM_SUPERVISOR_ABSENCE_H_
#define BULKHEAD_VMM_SUPERVISOR_ABSENCE_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace bulkhead::vmm {

// Has the VM held while a device that the guest uses is away: what the guest waits for need not be
// an access, a request in a queue is one to the guest alone. In time whatever the device's
// supervisor is waiting for: one thread of the process looks at the clock for all devices.
// Thread-safe.
class Absence {
 public:
  struct Options {
    absl::Duration before_hold = absl::Seconds(1);  // as long as an access waits before a hold
    absl::Duration timeout;                         // nobody waits for longer than that
    // Whether the guest uses the device. Both are called on any thread, one at a time, and must
    // return at once.
    std::function<bool()> is_used;
    std::function<void(bool)> hold;
  };

  // Errors: as pthread_create(3).
  static absl::StatusOr<std::unique_ptr<Absence>> Create(Options options);
  // Neither function is called any more; a hold stays.
  ~Absence();

  // It is away since then. Again: since another time.
  void Begin(absl::Time since);
  // It is back, or not waited for any more.
  void End();

 private:
  class Clock;

  Absence(Clock& clock, Options options) : clock_(clock), options_(std::move(options)) {}

  // Holds, or ends that. When to look again.
  absl::Time Look(absl::Time now);

  Clock& clock_;
  const Options options_;
  // Guarded by the clock's mutex.
  absl::Time since_ = absl::InfiniteFuture();
  bool held_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_ABSENCE_H_
