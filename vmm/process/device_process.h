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
#include "vmm/launcher/launcher.h"
#include "vmm/process/attach_offer.h"
#include "vmm/process/control_client.h"
#include "vmm/process/process_monitor.h"
#include "vmm/sandbox/process_sandbox.h"

namespace bulkhead::vmm {

// The program of a device.
struct DeviceProgram {
  std::string device_name;
  ProgramFile binary;
  std::vector<std::string> args;
  // Without its filter, which Start() makes from the binary's policy.
  ProcessSandbox sandbox;
};

// How a process ended.
struct DeviceProcessEnd {
  ExitInfo exit;
  std::string reason;          // for people: why it was killed, else `exit` in words
  std::string violation = "";  // of its sandbox; empty: none
  absl::Time time;             // SteadyNow() when the vmm saw the exit
  std::string last_lines;      // of its output, each with a newline
};

// Appends a process's last lines to `text`: several lines, without a newline at the end. The
// process's lines begin with the device's name, so that they cannot be mistaken for the vmm's.
std::string WithLastLines(std::string text, absl::string_view device_name,
                          absl::string_view last_lines);
// Removes what WithLastLines() appended.
std::string WithoutLastLines(absl::string_view text);

// One process that serves a device, from its start to its end, with the handshake of
// proto/attach.proto. Thread-compatible; Kill(), exited() and WaitForEnd() are thread-safe.
class DeviceProcess {
 public:
  // Starts it. Its descriptors: /dev/null as standard input, a pipe to the log as standard output
  // and error, and its ends of the attach and control sockets. `on_exit` is called on the
  // monitor's thread as soon as the process is dead, possibly after this object's destruction; it
  // must return at once. `closes` counts the attach socket from the destruction of this object
  // until the socket is closed, which descriptors that the process has sent may delay. Errors: as
  // ProcessMonitor::Start().
  static absl::StatusOr<std::unique_ptr<DeviceProcess>> Start(
      ProcessMonitor& monitor, const DeviceProgram& program, std::function<void()> on_exit,
      std::shared_ptr<PendingCloses> closes = nullptr, const Launcher::Limits& limits = {});
  // Kills it. Does not wait.
  ~DeviceProcess();

  pid_t pid() const { return process_->pid(); }
  SandboxLayers layers() const { return process_->layers(); }

  // Asks the device for its description and validates it. Errors: Cancelled (the call was),
  // DeadlineExceeded, Unavailable (it died), Internal (the description is invalid, or the device
  // answered with an error).
  absl::StatusOr<DeviceDescription> Describe(ControlCall& call);
  // Sends the offer and waits until the process serves. Errors: DeadlineExceeded (it may still
  // come to serve: AwaitAttached()), Unavailable (it died), FailedPrecondition (why it refused),
  // Internal (a wrong answer), ResourceExhausted (the host could not send the offer).
  absl::Status Attach(const AttachOffer& offer, absl::Duration timeout);
  // Waits on after a DeadlineExceeded. Errors: as Attach().
  absl::Status AwaitAttached(uint64_t generation, absl::Duration timeout);
  // Call after Attach(). True if the process has read the offer, or a part of it, and so has
  // descriptors; true as well where that cannot be known.
  bool has_taken_offer() const;
  // For further calls. Not after RequestExit().
  ControlClient& control() { return *control_; }

  // Forwards its output, past and future, to the vmm's standard error. Until then the output is
  // kept for ExplainFailure().
  void ForwardOutput();

  // Kills the process, if it still lives, and returns the operator's message about the step of its
  // start that failed with `why`: how the process ended, if by itself, and its last lines.
  // InvalidArgument: its flags are wrong, which is a mistake in the configuration.
  // ResourceExhausted: the process reports that the host lacks what it needs
  // (kDeviceExitShortage), or `why` is a shortage of the vmm; the message then has no output, or
  // only the process's last line.
  absl::Status ExplainFailure(const absl::Status& why);

  // Closes its sockets: the process finishes the requests in its channel and exits.
  void RequestExit();
  // If called more than once, the first `reason` is reported.
  void Kill(absl::string_view reason) const;
  bool exited() const;
  // Waits until it is dead and all its output has been read. Errors: DeadlineExceeded.
  absl::StatusOr<DeviceProcessEnd> WaitForEnd(absl::Duration timeout) const;

 private:
  class Watcher;  // the monitor's observer

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
  int offer_packets_ = 0;  // sent
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_DEVICE_PROCESS_H_
