#ifndef BULKHEAD_VMM_PROCESS_DEVICE_PROCESS_H_
#define BULKHEAD_VMM_PROCESS_DEVICE_PROCESS_H_

#include <stdint.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/close_elsewhere.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"
#include "vmm/config/program_file.h"
#include "vmm/device/device_description.h"
#include "vmm/process/attach_offer.h"
#include "vmm/process/control_client.h"
#include "vmm/process/process_monitor.h"

namespace bulkhead::vmm {

// What to run for a device.
struct DeviceProgram {
  std::string device_name;
  ProgramFile binary;
  std::vector<std::string> args;
};

// How a process ended.
struct DeviceProcessEnd {
  ExitInfo exit;
  std::string reason;      // for people: why it was killed, else `exit` in words
  absl::Time time;         // SteadyNow() when it was noticed
  std::string last_lines;  // of what it printed, each with a newline
};

// `text` and what a process printed last: several lines, without a newline at the end. Those of the
// process begin with the device's name, so that they cannot pass for the vmm's.
std::string WithLastLines(std::string text, absl::string_view device_name,
                          absl::string_view last_lines);
// The first half of that.
std::string WithoutLastLines(absl::string_view text);

// One process that serves a device, from its start to its end; knows the handshake of
// proto/attach.proto. Thread-compatible; Kill(), exited() and WaitForEnd() are thread-safe.
class DeviceProcess {
 public:
  // Starts it. Its descriptors: /dev/null as standard input, a pipe to the log as standard output
  // and error, and its ends of the attach and control sockets. `on_exit` is called on the
  // monitor's thread as soon as it is dead, possibly after this object has gone; it must return
  // at once. `closes`: counts its socket from the end of this object until it is closed;
  // descriptors that the process has sent may keep it open. Errors: as ProcessMonitor::Start().
  static absl::StatusOr<std::unique_ptr<DeviceProcess>> Start(
      ProcessMonitor& monitor, const DeviceProgram& program, std::function<void()> on_exit,
      std::shared_ptr<PendingCloses> closes = nullptr, const ProcessMonitor::Limits& limits = {});
  // Kills it. Does not wait.
  ~DeviceProcess();

  pid_t pid() const { return process_->pid(); }
  ProcessMonitor::Isolation isolation() const { return process_->isolation(); }

  // What the device says it is, validated. Errors: Cancelled (the call was), DeadlineExceeded,
  // Unavailable (it died), Internal (it may not be so, or it answered with an error).
  absl::StatusOr<DeviceDescription> Describe(ControlCall& call);
  // Hands the offer over and waits until the process serves. Errors: DeadlineExceeded (it may still
  // come to serve: AwaitAttached()), Unavailable (it died), FailedPrecondition (why it refused),
  // Internal (a wrong answer), ResourceExhausted (the host could not hand it over).
  absl::Status Attach(const AttachOffer& offer, absl::Duration timeout);
  // Waits on for that. Errors: as above.
  absl::Status AwaitAttached(uint64_t generation, absl::Duration timeout);
  // After Attach(): whether the process has read the offer, and so has the descriptors.
  bool has_taken_offer() const;
  // Further calls, before AskToEnd().
  ControlClient& control() { return *control_; }

  // What it prints goes to the vmm's standard error; until then it is kept, for ExplainFailure().
  void PassOnOutput();

  // The message for the operator about the step of its start that ended with `why`: how the
  // process ended, if it did, and what it printed last. It does not live any more when this
  // returns. InvalidArgument: its flags are wrong, the configuration's mistake. ResourceExhausted:
  // it says that the host does not give it what it needs (kDeviceExitShortage), or `why` is that of
  // the vmm; then nothing is said of what it printed.
  absl::Status ExplainFailure(const absl::Status& why);

  // Closes its sockets: the process finishes what is in its channel and ends.
  void AskToEnd();
  // The first `reason` counts.
  void Kill(absl::string_view reason) const;
  bool exited() const;
  // Waits until it is dead and all that it printed is seen. Errors: DeadlineExceeded.
  absl::StatusOr<DeviceProcessEnd> WaitForEnd(absl::Duration timeout) const;

 private:
  class Watcher;  // hears from the monitor

  DeviceProcess(const DeviceProgram& program, std::shared_ptr<Watcher> watcher,
                std::shared_ptr<MonitoredProcess> process, UniqueFd attach_socket,
                std::unique_ptr<ControlClient> control, std::shared_ptr<PendingCloses> closes);

  const std::string title_;  // "device 'disk0' (path/to/binary)"
  const DeviceProgram program_;
  const std::shared_ptr<Watcher> watcher_;
  const std::shared_ptr<MonitoredProcess> process_;
  UniqueFd attach_socket_;
  std::unique_ptr<ControlClient> control_;
  const std::shared_ptr<PendingCloses> closes_;
  bool described_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_DEVICE_PROCESS_H_
