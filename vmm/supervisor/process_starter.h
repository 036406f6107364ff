#ifndef BULKHEAD_VMM_SUPERVISOR_PROCESS_STARTER_H_
#define BULKHEAD_VMM_SUPERVISOR_PROCESS_STARTER_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/close_elsewhere.h"
#include "vmm/config/program_file.h"
#include "vmm/device/device_description.h"
#include "vmm/process/control_client.h"
#include "vmm/process/device_process.h"
#include "vmm/process/process_monitor.h"
#include "vmm/sandbox/process_sandbox.h"
#include "vmm/supervisor/attention.h"

namespace bulkhead::vmm {

// A process that has described itself, and can be attached.
struct Candidate {
  std::unique_ptr<DeviceProcess> process;
  DeviceDescription description;
};

// Starts processes of one device, with the same name, and the same flags until SetArgs(). The exit
// of each demands the supervisor's attention. Used by the supervisor's thread.
class ProcessStarter {
 public:
  ProcessStarter(ProcessMonitor& monitor, std::shared_ptr<Attention> attention,
                 std::string device_name, std::vector<std::string> args, ProcessSandbox sandbox,
                 absl::Duration timeout)
      : monitor_(monitor),
        attention_(std::move(attention)),
        device_name_(std::move(device_name)),
        args_(std::move(args)),
        sandbox_(std::move(sandbox)),
        timeout_(timeout) {}

  const std::string& device_name() const { return device_name_; }
  const std::vector<std::string>& args() const { return args_; }
  void SetArgs(std::vector<std::string> args) { args_ = std::move(args); }
  // How long each step of a start may take.
  absl::Duration timeout() const { return timeout_; }
  void SetTimeout(absl::Duration timeout) { timeout_ = timeout; }

  // Errors of all: for the operator, naming device and binary. ResourceExhausted: the host could
  // not start a process within timeout(), or did not give it what it needs; it is not the process's
  // fault. Cancelled: the VM ends.
  absl::StatusOr<std::unique_ptr<DeviceProcess>> Start(const ProgramFile& binary) const;

  // The process's description, within `limit`. Cancelled: a demand of at least `least` came first;
  // it may be asked again. Else as DeviceProcess::Describe().
  absl::StatusOr<DeviceDescription> Ask(DeviceProcess& process, absl::Duration limit,
                                        Attention::Urgency least) const;

  // OK: it answers a heartbeat within `limit`. Cancelled: any demand came first. Else as
  // ControlClient::Heartbeat().
  absl::Status CheckLiveness(DeviceProcess& process, absl::Duration limit) const;

  // Start() and Ask(). Cancelled: as above, and the process is killed.
  absl::StatusOr<Candidate> StartCandidate(const ProgramFile& binary,
                                           Attention::Urgency least) const;

 private:
  ProcessMonitor& monitor_;
  const std::shared_ptr<Attention> attention_;
  const std::string device_name_;
  std::vector<std::string> args_;
  const ProcessSandbox sandbox_;
  absl::Duration timeout_;
  const std::shared_ptr<PendingCloses> closes_ = std::make_shared<PendingCloses>();
};

// `status`, saying at which step of a start it arose.
absl::Status AtStep(absl::string_view step, const absl::Status& status);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_PROCESS_STARTER_H_
