#ifndef BULKHEAD_VMM_SUPERVISOR_OUTAGE_H_
#define BULKHEAD_VMM_SUPERVISOR_OUTAGE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "vmm/config/vm_spec.h"
#include "vmm/process/device_process.h"
#include "vmm/supervisor/absence.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/host_shortage.h"
#include "vmm/supervisor/restart_policy.h"
#include "vmm/supervisor/supervision_table.h"

namespace bulkhead::vmm {

// Why and since when a device is away, and when it is tried again; keeps the reported state. All
// times are SteadyNow()'s. Used by the supervisor's thread.
class Outage {
 public:
  // `random` gives numbers from 0 up to 1.
  Outage(const DeviceSpec& spec, DeviceReport& report, std::function<double()> random);
  // Before anything else. Borrowed.
  void SetAbsence(Absence* absence) { absence_ = absence; }

  // For people: why the device is away, or will be in a moment.
  void SetCause(std::string cause) { cause_ = std::move(cause); }
  const std::string& cause() const { return cause_; }
  // Of the next state to be reported.
  void SetReason(std::string reason) { reason_ = std::move(reason); }

  // Its process is lost, silent since `silent_since`, but not reaped yet.
  void Begin(absl::Time silent_since);
  void OnReaped(absl::Time silent_since, const std::optional<DeviceProcessEnd>& end);
  void OnFailedStart(const absl::Status& why);
  void OnTakenAway();
  void ReportLoss() { report_.Lost(cause_); }
  void BeginAbsence() { absence_->Begin(away_since_); }
  // A process serves.
  void End();

  // What follows from the last OnReaped() or OnFailedStart(): kPolicyRestarts, kPolicyStops or
  // kPolicyFails.
  SupervisionEvent AskPolicy();
  void ForgetFailures() { policy_.Forget(); }

  absl::Time next_try() const { return next_try_; }
  void StopTimer() { next_try_ = absl::InfiniteFuture(); }
  void RetryAfter(absl::Duration delay);
  void RetryAfterBackoff();
  void RetryAfterShortage(const absl::Status& why);

  void ReportState(v1::Device::State state);
  void ReportFailed();
  v1::Device::State state() const { return state_; }
  const std::string& state_reason() const { return state_reason_; }

 private:
  const std::string name_;
  const AccessPolicy access_policy_;
  DeviceReport& report_;
  Absence* absence_ = nullptr;
  RestartPolicy policy_;
  HostShortage shortage_;

  v1::Device::State state_ = v1::Device::STARTING;
  std::string state_reason_;
  std::string reason_;
  std::string cause_;
  absl::Time served_since_;
  absl::Duration served_;  // by the process that was lost
  bool ended_cleanly_ = false;
  absl::Time away_since_;
  RestartPolicy::Decision decision_;
  absl::Time next_try_ = absl::InfiniteFuture();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_OUTAGE_H_
