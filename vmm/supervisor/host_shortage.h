#ifndef BULKHEAD_VMM_SUPERVISOR_HOST_SHORTAGE_H_
#define BULKHEAD_VMM_SUPERVISOR_HOST_SHORTAGE_H_

#include <functional>
#include <utility>

#include "absl/time/time.h"

namespace bulkhead::vmm {

// When to try again to start a process while the host is short of descriptors, memory or processes.
// Each delay is twice as long as the one before, give or take a fifth, up to kMaxDelay, without a
// limit of tries: a try is cheap, and the guest waits. Pure: time and randomness come from outside.
// Thread-compatible.
class HostShortage {
 public:
  static constexpr absl::Duration kMinDelay = absl::Milliseconds(100);
  static constexpr absl::Duration kMaxDelay = absl::Seconds(2);

  // `random` gives numbers from 0 up to 1.
  explicit HostShortage(std::function<double()> random) : random_(std::move(random)) {}

  // A try has failed at `now`: how long to wait for the next one.
  absl::Duration OnFailedTry(absl::Time now);
  // A try has succeeded, or is not wanted any more: how long the shortage lasted, from the first
  // failed try. Zero: there was none.
  absl::Duration End(absl::Time now);

  // A try has failed, and none has succeeded since.
  bool lasts() const { return since_ != absl::InfiniteFuture(); }

 private:
  const std::function<double()> random_;
  absl::Time since_ = absl::InfiniteFuture();
  absl::Duration delay_ = kMinDelay;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_HOST_SHORTAGE_H_
