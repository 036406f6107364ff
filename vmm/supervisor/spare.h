#ifndef BULKHEAD_VMM_SUPERVISOR_SPARE_H_
#define BULKHEAD_VMM_SUPERVISOR_SPARE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/process_starter.h"
#include "vmm/supervisor/restart_policy.h"

namespace bulkhead::vmm {

// A successor that is started ahead of time, has said what it is, and waits. It has none of the
// device's descriptors. Its failures are of no consequence but a later try. All times are
// SteadyNow()'s. Used by the supervisor's thread.
class Spare {
 public:
  // `check`: is a candidate fit to go on from the device's state? All must outlive this.
  Spare(const ProcessStarter& starter, DeviceReport& report,
        std::function<absl::Status(const Candidate&)> check, std::function<double()> random);

  // When Prepare() is to be called again; InfiniteFuture: there is one.
  absl::Time next() const { return ready() ? absl::InfiniteFuture() : next_; }
  // Starts one, and waits until it has said what it is: for `limit` at most, or until any demand;
  // then it goes on in the next call.
  void Prepare(const std::string& binary, absl::Duration limit);

  // It has died: to be noticed by Fail().
  bool exited() const { return process_ != nullptr && process_->exited(); }
  void NoticeDeath();

  bool ready() const { return description_.has_value(); }
  // The spare, if there is one that lives; else nullopt. Another one is then due in a moment.
  std::optional<Candidate> Take();
  // Ends it. A new one is due at once: its binary may be another.
  void Drop();

 private:
  void Fail(const absl::Status& why);

  const ProcessStarter& starter_;
  DeviceReport& report_;
  const std::function<absl::Status(const Candidate&)> check_;
  RestartPolicy policy_;

  std::unique_ptr<DeviceProcess> process_;
  std::optional<DeviceDescription> description_;  // it waits
  absl::Time started_;
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SPARE_H_
