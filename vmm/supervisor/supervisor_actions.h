#ifndef BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_ACTIONS_H_
#define BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_ACTIONS_H_

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/config/program_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/process_monitor.h"
#include "vmm/remote_device/remote_device.h"
#include "vmm/supervisor/absence.h"
#include "vmm/supervisor/attached_process.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/command_queue.h"
#include "vmm/supervisor/device_clock.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/heartbeats.h"
#include "vmm/supervisor/next_process.h"
#include "vmm/supervisor/outage.h"
#include "vmm/supervisor/process_starter.h"
#include "vmm/supervisor/spare.h"
#include "vmm/supervisor/supervision.h"
#include "vmm/supervisor/supervisor_options.h"

namespace bulkhead::vmm {

// Carries out the actions of a supervisor's state machine: has the device, its processes, and its
// reports. Decides nothing. Only the supervisor's thread may use it; any thread may call device()
// and report().
class SupervisorActions {
 public:
  // Borrows all but `attention` and `options`. They must outlive this.
  SupervisorActions(const DeviceSpec& spec, ProcessMonitor& monitor,
                    const SupervisorOptions& options, std::shared_ptr<Attention> attention,
                    const CommandQueue& commands, Supervision& supervision, DeviceClock& clock);
  // Before anything else: starts the first process, which is to be attached. Errors: as
  // DeviceSupervisor::Create().
  absl::Status CreateDevice(DeviceSpec& spec, const GuestRam& ram);

  // The result of an action that has one.
  std::optional<SupervisionEvent> CarryOut(SupervisionAction action);

  // Asks the process that serves for its metrics, for a moment at most. `hang`: why the process has
  // to be killed; empty: it has not. False: something else came first.
  bool FetchMetrics(std::string& hang);

  // Note what the actions after an event need to know. Call before On() of the state machine: for
  // kExited; for kMisbehaves; for a command.
  void OnLoss();
  void OnMisbehaviour(absl::string_view how);
  void OnCommand(SupervisorCommand command);

  // The flags of further processes. Call ChangeArgs() before the restart that it is for: if its
  // process is rejected, or does not attach, all are as before. There is no spare then.
  const std::vector<std::string>& args() const { return starter_.args(); }
  void ChangeArgs(std::vector<std::string> args);

  // What there is to look at.
  RemoteDevice& device() { return *device_; }
  const RemoteDevice& device() const { return *device_; }
  const AttachedProcess& attached() const { return *attached_; }
  const ProgramFile& binary() const { return next_.binary(); }
  Spare& spare() { return spare_; }
  const Spare& spare() const { return spare_; }
  Heartbeats& heartbeats() { return heartbeats_; }
  const Heartbeats& heartbeats() const { return heartbeats_; }
  Outage& outage() { return outage_; }
  const Outage& outage() const { return outage_; }
  DeviceReport& report() { return report_; }
  const DeviceReport& report() const { return report_; }
  const absl::Status& failure() const { return failure_; }

 private:
  using Action = SupervisionAction;
  using Event = SupervisionEvent;
  using Urgency = Attention::Urgency;

  Event Reap();
  Event AwaitEarlierIo();
  Event StartProcess();
  Event PrepareChannel();
  Event Attach();
  Event StartSuccessor();
  Event CallReset();
  Event Discard();
  Event OnFailure(const absl::Status& why);
  void BeginServing();
  void AdoptBinary();
  void SetArgs(std::vector<std::string> args);
  void RevertArgs();
  void Answer(const absl::Status& status);
  absl::Status WhyRejected() const;
  // What may interrupt a try.
  Urgency Interrupting() const {
    return supervision_.tries_by_itself() ? Urgency::kCommand : Urgency::kEnd;
  }

  const std::string name_;
  const SupervisorOptions options_;
  const std::shared_ptr<Attention> attention_;
  const CommandQueue& commands_;
  Supervision& supervision_;
  const absl::Duration start_timeout_;  // but for the first process
  ProcessStarter starter_;
  DeviceReport report_;
  std::unique_ptr<RemoteDevice> device_;
  std::unique_ptr<Absence> absence_;  // destroyed before `device_`
  std::minstd_rand random_;
  Outage outage_;
  Heartbeats heartbeats_;
  Spare spare_;
  NextProcess next_;
  std::unique_ptr<AttachedProcess> attached_;
  std::optional<SupervisorCommand> command_;  // under way
  std::string kill_reason_;
  bool metrics_missed_ = false;                            // by this process, and reported
  absl::Status failure_;                                   // of the last action that failed
  std::optional<std::vector<std::string>> previous_args_;  // while a command changes them
  absl::Status rejection_;  // why the process of the restart command cannot serve
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_ACTIONS_H_
