#ifndef BULKHEAD_VMM_SUPERVISOR_HEARTBEATS_H_
#define BULKHEAD_VMM_SUPERVISOR_HEARTBEATS_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "vmm/config/vm_spec.h"
#include "vmm/process/control_client.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/stall_detector.h"

namespace bulkhead::vmm {

// Asks the process that serves at an interval whether it makes progress, and for its metrics. All
// times are SteadyNow()'s. Used by the supervisor's thread.
class Heartbeats {
 public:
  // `access_timeout`: of the device.
  Heartbeats(const HeartbeatSpec& spec, absl::Duration access_timeout,
             std::shared_ptr<Attention> attention, DeviceReport& report)
      : spec_(spec),
        attention_(std::move(attention)),
        report_(report),
        stall_(StallDetector::ForTimeout(spec.stall_timeout, access_timeout, spec.interval)) {}

  // A process serves from now on, or does not any more.
  void Begin(uint64_t generation);
  void End() { next_ = absl::InfiniteFuture(); }

  // When Send() is due; InfiniteFuture: never.
  absl::Time next() const { return next_; }

  // Waits for an answer, for an interval at most; any demand interrupts it, and then it is due
  // again at once. Returns why the process counts as hung; empty: it does not. `oldest_pending` is
  // called when the process has answered: the ticket of the oldest access that it owes an answer,
  // or 0. A process that answers heartbeats and not that access hangs, too.
  std::string Send(ControlClient& process, absl::FunctionRef<uint64_t()> oldest_pending);
  // Since when the process has not answered; InfiniteFuture: it has, the last time.
  absl::Time silent_since() const { return silent_since_; }

 private:
  void FetchMetrics(ControlClient& process);
  std::string CountMiss(absl::Time sent);

  const HeartbeatSpec spec_;
  const std::shared_ptr<Attention> attention_;
  DeviceReport& report_;

  uint64_t generation_ = 0;
  absl::Time next_ = absl::InfiniteFuture();
  absl::Time next_metrics_ = absl::InfiniteFuture();
  StallDetector stall_;
  uint32_t missed_ = 0;  // in a row
  absl::Time silent_since_ = absl::InfiniteFuture();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_HEARTBEATS_H_
