#ifndef BULKHEAD_VMM_SUPERVISOR_SPARE_H_
#define BULKHEAD_VMM_SUPERVISOR_SPARE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vmm/config/program_file.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/host_shortage.h"
#include "vmm/supervisor/process_starter.h"
#include "vmm/supervisor/restart_policy.h"

namespace bulkhead::vmm {

// A successor that is started ahead of time, has said what it is, and waits. It has none of the
// device's descriptors. It is asked now and then whether it lives. Its failures are of no
// consequence but a later try. All times are SteadyNow()'s. Used by the supervisor's thread.
class Spare {
 public:
  // `check`: is a candidate fit to go on from the device's state? All must outlive this.
  Spare(const ProcessStarter& starter, DeviceReport& report,
        std::function<absl::Status(const Candidate&)> check, std::function<double()> random);

  // When Tend() is to be called again.
  absl::Time next() const { return next_; }
  // Where there is none, starts one, and waits until it has said what it is; where there is one,
  // asks it whether it lives. Waits for `limit` at most, or until any demand; then it goes on in
  // the next call.
  void Tend(const ProgramFile& binary, absl::Duration limit);

  // It has died: to be noticed by Fail().
  bool exited() const { return process_ != nullptr && process_->exited(); }
  void NoticeDeath();

  bool ready() const { return description_.has_value(); }
  // The spare, if there is one that lives; else nullopt. Another one is then due in a moment.
  std::optional<Candidate> Take();
  // A candidate that could not be used, for no fault of its own, waits as the spare.
  void PutBack(Candidate candidate);
  // Ends it. A new one is due at once: its binary may be another.
  void Drop();

 private:
  void Prepare(const ProgramFile& binary, absl::Duration limit);
  void Keep(Candidate candidate);
  void AskWhetherItLives(absl::Duration limit);
  void Fail(const absl::Status& why);
  void OnShortage(const absl::Status& why);

  const ProcessStarter& starter_;
  DeviceReport& report_;
  const std::function<absl::Status(const Candidate&)> check_;
  RestartPolicy policy_;
  HostShortage shortage_;

  std::unique_ptr<DeviceProcess> process_;
  std::optional<DeviceDescription> description_;  // it waits
  absl::Time started_;
  absl::Duration silence_;  // how long we have waited in vain for its heartbeat
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SPARE_H_
