#ifndef BULKHEAD_VMM_SUPERVISOR_ATTACHED_PROCESS_H_
#define BULKHEAD_VMM_SUPERVISOR_ATTACHED_PROCESS_H_

#include <stdint.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/config/program_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/process/control_client.h"
#include "vmm/process/device_process.h"
#include "vmm/remote_device/remote_device.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/process_starter.h"
#include "vmm/supervisor/spare.h"
#include "vmm/supervisor/supervision.h"

namespace bulkhead::vmm {

// The process that has a device's descriptors, if there is one, and how they pass from one process
// to the next. A process that does not die although killed keeps them: there is no other process
// then. Tells the state machine what it learns on the way. Used by the supervisor's thread.
class AttachedProcess {
 public:
  using Urgency = Attention::Urgency;

  // Borrows all but `attention`. `state_version`: DeviceInfo.state_version of the first process.
  AttachedProcess(const DeviceSpec& spec, RemoteDevice& device, const ProcessStarter& starter,
                  std::shared_ptr<Attention> attention, Spare& spare, DeviceReport& report,
                  Supervision& supervision, uint32_t state_version);

  bool exists() const { return process_ != nullptr; }
  bool exited() const { return process_ != nullptr && process_->exited(); }
  DeviceProcess& process() const { return *process_; }
  uint64_t generation() const { return generation_; }

  // Is `candidate` the same device, and can it resume from the saved state, or, with
  // `discard_state`, do without? Errors: FailedPrecondition, with the difference.
  absl::Status CheckCompatible(const Candidate& candidate, bool discard_state) const;

  // Waits for the I/O that has outlived a dead process. Aborted: it takes longer.
  absl::Status AwaitEarlierIo() const;
  // Prepares the channel and the saved state for the next process, and has accesses wait for it.
  // Aborted: the channel is in use, try again in a moment. ResourceExhausted: the host lacks
  // something.
  absl::Status PrepareChannel();
  // Hands the device to `candidate`, after PrepareChannel(). Cancelled: a demand of at least
  // `least` came first. ResourceExhausted: a shortage of the host. Where it fails and exists(), the
  // process does not die. With `beside`, the candidate is a spare, which may hang: where it does
  // not serve at once, a fresh process of `binary` is started into `beside`, and the spare is given
  // up if that is there first.
  absl::Status Attach(Candidate candidate, Urgency least, const ProgramFile& binary,
                      std::optional<absl::StatusOr<Candidate>>* beside);

  // One call to the process, which only the end of the VM interrupts.
  absl::Status Call(absl::Status (ControlClient::*method)(ControlCall&), absl::Duration timeout);
  // Lets it finish what it has begun, so that a successor need not repair anything.
  void Quiesce();
  // Waits for a process that has exited or was killed, and reports its end, `planned` or not. None:
  // it does not die.
  std::optional<DeviceProcessEnd> Reap(bool planned);
  // Lets it finish what the guest has sent, and ends it.
  void End();

 private:
  absl::Status TryPrepareChannel();
  absl::Status TryAttach(Candidate candidate, Urgency least, const ProgramFile& binary,
                         std::optional<absl::StatusOr<Candidate>>* beside);
  // `status` of a failed attachment. Accesses that did not wait before do not wait now either.
  absl::Status FailAgain(absl::Status status);

  const std::string name_;
  const AccessPolicy access_policy_;
  RemoteDevice& device_;
  const ProcessStarter& starter_;
  const std::shared_ptr<Attention> attention_;
  Spare& spare_;
  DeviceReport& report_;
  Supervision& supervision_;

  uint32_t state_version_;  // of the process that served last
  uint64_t generation_ = 0;
  std::unique_ptr<DeviceProcess> process_;
  absl::Status channel_before_;  // its status before PrepareChannel()
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_ATTACHED_PROCESS_H_
