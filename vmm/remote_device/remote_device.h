#ifndef BULKHEAD_VMM_REMOTE_DEVICE_REMOTE_DEVICE_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_REMOTE_DEVICE_H_

#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/config/vm_spec.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/remote_device/device_access.h"
#include "vmm/remote_device/device_description.h"
#include "vmm/remote_device/device_endpoints.h"
#include "vmm/remote_device/device_process.h"
#include "vmm/remote_device/process_monitor.h"

namespace bulkhead::vmm {

// The unasked-for end of a device process.
struct DeviceFailure {
  std::string device;
  pid_t pid = 0;
  uint64_t generation = 0;
  std::string reason;      // "killed by signal 11 (Segmentation fault)"
  std::string last_lines;  // of what it printed, each with a newline

  // For the operator: several lines, without a newline at the end.
  std::string ToString() const;
};

struct RemoteDeviceOptions {
  uint32_t vcpus = 1;
  // For each step of the start: the process must describe itself, and then attach, this soon.
  absl::Duration start_timeout = absl::Seconds(10);
  // Called once if the process of a started device ends or has to be killed, on the monitor's
  // thread; the guest's accesses read all ones by then. May be called until the device's
  // destructor returns.
  std::function<void(const DeviceFailure&)> on_failure;
};

// A device in another process, as the rest of the vmm sees it: what it is, the eventfds to give
// to KVM, and accesses to it. It survives its process: the endpoints stay, and accesses read all
// ones.
//
// Thread-safe after Start(), except Stop().
class RemoteDevice final : public DeviceAccess {
 public:
  // Starts the process, asks it what it is, and attaches it: it serves when this returns. Takes
  // the resources. `ram` and `monitor` are borrowed and must outlive the device. Blocks; start
  // several at once with StartDevices(). Errors: one message for the operator, which names the
  // device, what went wrong, and what it printed last.
  static absl::StatusOr<std::unique_ptr<RemoteDevice>> Start(DeviceSpec spec, const GuestRam& ram,
                                                             ProcessMonitor& monitor,
                                                             const RemoteDeviceOptions& options);
  // As Stop().
  ~RemoteDevice() override;

  const std::string& name() const { return name_; }
  const DeviceDescription& description() const { return description_; }
  // The eventfds of doorbells, vectors and line. They live as long as the device.
  const DeviceEndpoints& endpoints() const { return *endpoints_; }
  pid_t pid() const { return process_->pid(); }

  uint64_t Read(Requester requester, uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void PostWrite(Requester requester, uint8_t region, uint64_t offset, uint8_t size_bytes,
                 uint64_t value) override;
  void WriteAndWait(Requester requester, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value) override;
  void Reset(Requester requester) override;
  void SetFunctionState(Requester requester, const FunctionState& state) override;

  // Accesses that the access timeout ended, and those that found the device gone.
  uint64_t timed_out_accesses() const { return timed_out_accesses_.load(); }
  uint64_t dropped_accesses() const { return dropped_accesses_.load(); }

  // Accesses that wait, or come from now on, end at once; for a vCPU that must stop.
  void CancelAccesses() { endpoints_->channel().CancelWaits(); }
  void ResumeAccesses() { endpoints_->channel().ResumeWaits(); }

  // Ends the process: asks it to finish what the guest has sent, and kills it if it takes longer
  // than a moment. AskToStop() does the asking only, so that several devices end at once.
  // Nothing that happens from now on is a failure. Idempotent.
  void AskToStop();
  void Stop();

 private:
  class Watcher;  // hears from the monitor

  RemoteDevice(const DeviceSpec& spec, const RemoteDeviceOptions& options);

  absl::Status StartProcess(DeviceSpec spec, const GuestRam& ram, ProcessMonitor& monitor,
                            const RemoteDeviceOptions& options);
  // The message of a failed start.
  absl::Status ExplainStartFailure(const absl::Status& status);
  // Deals with an access that failed.
  void OnAccessError(const absl::Status& status);

  const std::string name_;
  const std::string binary_;
  const absl::Duration access_timeout_;
  uint64_t generation_ = 1;
  DeviceDescription description_;
  bool described_ = false;
  std::shared_ptr<Watcher> watcher_;
  std::shared_ptr<DeviceEndpoints> endpoints_;  // shared with the watcher
  std::unique_ptr<DeviceProcess> process_;

  std::atomic<uint64_t> timed_out_accesses_{0};
  std::atomic<uint64_t> dropped_accesses_{0};
};

// Starts all devices at once. Errors: of the first (in the order of `specs`) that failed; the
// others are stopped then.
absl::StatusOr<std::vector<std::unique_ptr<RemoteDevice>>> StartDevices(
    std::vector<DeviceSpec> specs, const GuestRam& ram, ProcessMonitor& monitor,
    const RemoteDeviceOptions& options);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_REMOTE_DEVICE_H_
