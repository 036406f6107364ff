#ifndef BULKHEAD_VMM_SUPERVISOR_DEVICE_REPORT_H_
#define BULKHEAD_VMM_SUPERVISOR_DEVICE_REPORT_H_

#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/device_control.pb.h"
#include "proto/vm_control.pb.h"
#include "vmm/config/program_report.h"
#include "vmm/config/vm_spec.h"
#include "vmm/device/device_description.h"
#include "vmm/process/device_process.h"
#include "vmm/sandbox/sandbox_layers.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {

// Reports one device: a description for clients, events, and log lines for the operator. No
// decision depends on it. Thread-safe.
class DeviceReport {
 public:
  static constexpr int kKeptRestarts = 10;

  // `events` is borrowed and must outlive this.
  DeviceReport(const DeviceSpec& spec, EventLog& events);

  // All but `pci`.
  v1::Device device() const;
  v1::DeviceMetrics metrics() const;

  void SetDescription(const DeviceDescription& description);
  void SetArgs(const std::vector<std::string>& args);
  void SetSpare(bool has_spare);
  // `metrics` is hostile input: invalid ones are left out.
  void SetMetrics(const v1::DeviceMetrics& metrics);

  // The same state again: only the reason changes, and there is no event.
  void SetState(v1::Device::State state, absl::string_view reason);
  // A process is lost or taken away: `cause` is the first half of an entry in recent_restarts.
  void Lost(absl::string_view cause);
  // A process serves.
  void Serves(pid_t pid, uint64_t generation, const std::string& binary, SandboxLayers layers);
  // One serves again, `downtime` after the last one was lost: the second half.
  void Recovered(absl::Duration downtime);
  // `expected`: it was told to end. Else it is logged as an error.
  void Ended(pid_t pid, uint64_t generation, const DeviceProcessEnd& end, bool expected);

  void HeartbeatAnswered(absl::Duration round_trip);
  void HeartbeatMissed(uint32_t in_a_row);
  void PolicyActs(absl::string_view action);
  void WasReset(absl::string_view by);

 private:
  const std::string name_;
  const std::shared_ptr<const ProgramReport> program_;  // null: none
  EventLog& events_;

  mutable absl::Mutex mutex_;
  v1::Device device_ ABSL_GUARDED_BY(mutex_);
  v1::DeviceMetrics metrics_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_DEVICE_REPORT_H_
