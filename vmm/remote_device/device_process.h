#ifndef BULKHEAD_VMM_REMOTE_DEVICE_DEVICE_PROCESS_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_DEVICE_PROCESS_H_

#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"
#include "vmm/remote_device/control_client.h"
#include "vmm/remote_device/device_description.h"
#include "vmm/remote_device/device_endpoints.h"
#include "vmm/remote_device/process_monitor.h"

namespace bulkhead::vmm {

// One process that serves a device, from its start to its end; knows the handshake of
// proto/attach.proto. Thread-compatible; Kill() and WaitForExit() are thread-safe.
class DeviceProcess {
 public:
  // Starts `binary`. Its descriptors: /dev/null as standard input, a pipe to `observer` as
  // standard output and error, and its ends of the attach and control sockets. Errors: as
  // ProcessMonitor::Start().
  static absl::StatusOr<std::unique_ptr<DeviceProcess>> Start(
      ProcessMonitor& monitor, const std::string& binary, const std::vector<std::string>& args,
      std::shared_ptr<ProcessObserver> observer);
  // Kills it. Does not wait.
  ~DeviceProcess();

  pid_t pid() const { return process_->pid(); }

  // What the device says it is, validated. Errors: DeadlineExceeded, Unavailable (it died),
  // InvalidArgument (it may not be so).
  absl::StatusOr<DeviceDescription> Describe(absl::Duration timeout);

  // Hands the endpoints over and waits until the process serves. Errors: DeadlineExceeded,
  // Unavailable (it died), FailedPrecondition (why it refused), InvalidArgument (a wrong answer).
  absl::Status Attach(const DeviceEndpoints& endpoints, absl::string_view device_name,
                      uint64_t generation, absl::Duration timeout);

  // Closes the attach socket: the process finishes what is in its channel and ends.
  void AskToEnd() { attach_socket_.reset(); }
  void Kill() const { process_->Kill(); }
  absl::StatusOr<ExitInfo> WaitForExit(absl::Duration timeout) const {
    return process_->WaitForExit(timeout);
  }

 private:
  DeviceProcess(std::shared_ptr<MonitoredProcess> process, UniqueFd attach_socket,
                std::unique_ptr<ControlClient> control)
      : process_(std::move(process)),
        attach_socket_(std::move(attach_socket)),
        control_(std::move(control)) {}

  const std::shared_ptr<MonitoredProcess> process_;
  UniqueFd attach_socket_;
  const std::unique_ptr<ControlClient> control_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_DEVICE_PROCESS_H_
