#ifndef BULKHEAD_VMM_SUPERVISOR_DEVICE_SUPERVISOR_H_
#define BULKHEAD_VMM_SUPERVISOR_DEVICE_SUPERVISOR_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/device_control.pb.h"
#include "proto/vm_control.pb.h"
#include "vmm/config/vm_spec.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/process_monitor.h"
#include "vmm/remote_device/remote_device.h"
#include "vmm/supervisor/supervisor_options.h"

namespace bulkhead::vmm {

class SupervisorThread;

// Supervises one device: its thread detects when the device's process exits or hangs, and replaces
// it without the guest noticing. Only this thread starts, kills and attaches processes of the
// device.
//
// Thread-safe. Commands return at once; `done` is called exactly once, on the supervisor's thread
// or, if it has ended, on the caller's, within a bounded time: it must return soon and may give
// further commands. Commands are carried out one at a time, in order. Their errors are for the
// client (proto/vm_control.proto): FailedPrecondition, DeadlineExceeded, Unavailable (the VM
// ends).
class DeviceSupervisor {
 public:
  using Done = std::function<void(absl::Status)>;

  // Starts the first process: it serves when this returns. Blocks; several at once by
  // StartDevices(). `ram`, `monitor` and what `options` points to must outlive this. Errors: one
  // message for the operator, which names the device, what went wrong, and what it printed last;
  // InvalidArgument if it is the configuration's mistake.
  static absl::StatusOr<std::unique_ptr<DeviceSupervisor>> Create(DeviceSpec spec,
                                                                  const GuestRam& ram,
                                                                  ProcessMonitor& monitor,
                                                                  const SupervisorOptions& options);
  // As Shutdown() and AwaitShutdown().
  ~DeviceSupervisor();

  // What lasts: description, endpoints, accesses. The same object for the supervisor's life.
  RemoteDevice& device();

  // All that is known without asking the process; `pci` is the caller's to fill.
  v1::Device Describe() const;
  // What the process said about itself last, checked and cut; for reports only.
  v1::DeviceMetrics Metrics() const;
  // Asks the process anew, if one serves. `done` is called as that of a command, but without an
  // order among them, and perhaps as late as one: a client should not wait for it for ever.
  void RefreshMetrics(std::function<void()> done);

  // Replaces the process, whatever the state: a new one of `binary` (empty: as before) is started
  // and checked first; then the old one quiesces, or is killed, and the new one resumes from its
  // state, or with `discard_state` starts as after power-on. OK: RUNNING again.
  // FailedPrecondition: the new process was rejected; the message says what serves now.
  void Restart(std::string binary, bool discard_state, Done done);
  // Makes the device's file `bytes` long (0: it is already as it should be), and replaces a process
  // that serves, so that the guest learns of the size. Errors: also as HostFile::Resize().
  void Resize(uint64_t bytes, Done done);
  // Flags of the device's binary that change, as SupervisorCommand::flags has them; replaces a
  // process that serves.
  void ChangeFlags(std::map<std::string, std::string> flags, Done done);
  // The state after power-on; of a device whose process is away: for its successor.
  void Reset(Done done);
  // Ends the process until Start() or Restart(); reads give all ones.
  void Stop(Done done);
  void Start(Done done);
  // The guest reboots, its vCPUs do not run: state after power-on, function state included, and
  // nothing of the time before is in the channel. A process that cannot do it in time is replaced.
  void ResetForReboot(Done done);

  // The VM ends, its vCPUs do not run any more. Asks the process to finish what the guest has sent
  // and to end, and kills it if it takes longer than a moment; nothing that happens from now on is
  // a failure, and commands answer Unavailable. Idempotent.
  void Shutdown();
  void AwaitShutdown();
  // What the thread does at this moment, in a few words; "": it has ended. Never blocks.
  const char* step() const;

 private:
  explicit DeviceSupervisor(std::unique_ptr<SupervisorThread> thread);

  const std::unique_ptr<SupervisorThread> thread_;
};

// Creates all at once. Errors: of the first (in the order of `specs`) that failed; the others are
// ended then.
absl::StatusOr<std::vector<std::unique_ptr<DeviceSupervisor>>> StartDevices(
    std::vector<DeviceSpec> specs, const GuestRam& ram, ProcessMonitor& monitor,
    const SupervisorOptions& options);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_DEVICE_SUPERVISOR_H_
