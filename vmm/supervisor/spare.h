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

// A successor that is started ahead of time, has described itself, and waits. It has none of the
// device's descriptors. Its liveness is checked at an interval. If it fails, another one is started
// later. All times are SteadyNow()'s. Used by the supervisor's thread.
class Spare {
 public:
  // `check`: is a candidate compatible with the device and its state? All must outlive this.
  Spare(const ProcessStarter& starter, DeviceReport& report,
        std::function<absl::Status(const Candidate&)> check, std::function<double()> random);

  // When Tend() is to be called again.
  absl::Time next() const { return next_; }
  // Starts a spare if there is none, and waits until it has described itself; else checks its
  // liveness. Any demand interrupts it; the next call continues.
  void Tend(const ProgramFile& binary);

  // OnExit() is to be called.
  bool exited() const { return process_ != nullptr && process_->exited(); }
  void OnExit();

  bool ready() const { return description_.has_value(); }
  // The spare, if there is one that lives; else nullopt. The next one is due after a short pause.
  std::optional<Candidate> Take();
  // Keeps a candidate as the spare that could not be attached through no fault of its own.
  void PutBack(Candidate candidate);
  // Kills the spare. A new one is due at once, of another binary perhaps.
  void Drop();

 private:
  void Prepare(const ProgramFile& binary);
  void Keep(Candidate candidate);
  void CheckLiveness();
  void Fail(const absl::Status& why);
  // The process that was being started gave no description but `answer`, or ended.
  void OnFailedStart(const absl::Status& answer);
  void OnShortage(const absl::Status& why);

  const ProcessStarter& starter_;
  DeviceReport& report_;
  const std::function<absl::Status(const Candidate&)> check_;
  RestartPolicy policy_;
  HostShortage shortage_;

  std::unique_ptr<DeviceProcess> process_;
  std::optional<DeviceDescription> description_;  // set: ready
  absl::Time started_;
  absl::Duration silence_;  // how long it has not answered heartbeats
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SPARE_H_
