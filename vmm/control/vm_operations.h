#ifndef BULKHEAD_VMM_CONTROL_VM_OPERATIONS_H_
#define BULKHEAD_VMM_CONTROL_VM_OPERATIONS_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "vmm/console/console_hub.h"
#include "vmm/vm/event_log.h"
#include "vmm/vm/vm_trace.h"

namespace bulkhead::vmm {

// The operations of a VM for the control plane. The service (control_server.h) uses the VM only
// through this interface; tests have a fake. Thread-safe. Calls without `done` return at once and
// may be made on a gRPC thread. The others call `done` exactly once, on any thread, within a
// bounded time. Errors are for the client: code and text as in proto/vm_control.proto.
class VmOperations {
 public:
  using Done = std::function<void(absl::Status)>;

  virtual ~VmOperations() = default;

  virtual v1::VmStatus Status() const = 0;
  virtual std::vector<v1::Device> Devices() const = 0;
  // Errors: NotFound.
  virtual absl::StatusOr<v1::Device> Device(absl::string_view name) const = 0;
  // As far as it is known without asking a device.
  virtual v1::VmMetrics Metrics() const = 0;
  // Asks every device that serves for its metrics. A device that is busy delays it for as long as
  // a command, which is too long for most clients. No errors.
  virtual void RefreshMetrics(Done done) = 0;

  // False: the guest has not enabled the button yet; the press is kept until it does.
  virtual absl::StatusOr<bool> PressPowerButton() = 0;
  // Wakes a suspended guest.
  virtual absl::Status Wake() = 0;
  virtual absl::Status Stop(absl::string_view reason) = 0;
  virtual void Pause(Done done) = 0;
  // `report_errors`: requests that wait since the host could not do them are answered with their
  // errors instead of tried again.
  virtual void Resume(bool report_errors, Done done) = 0;

  virtual void RestartDevice(const v1::RestartDeviceRequest& request, Done done) = 0;
  virtual void ResizeDisk(const v1::ResizeDiskRequest& request, Done done) = 0;
  virtual void LimitDevice(const v1::LimitDeviceRequest& request, Done done) = 0;
  virtual void ResetDevice(absl::string_view name, Done done) = 0;
  virtual void StopDevice(absl::string_view name, Done done) = 0;
  virtual void StartDevice(absl::string_view name, Done done) = 0;
  virtual absl::Status SetDeviceLink(absl::string_view name, bool up) = 0;

  // As far as it is known without asking the device: RefreshMetrics() does that. Errors:
  // FailedPrecondition (the VM has none).
  virtual absl::StatusOr<v1::Balloon> Balloon() const = 0;
  virtual absl::Status SetBalloon(uint64_t target_bytes) = 0;

  virtual EventLog& events() = 0;
  // Begins a trace, which ends with the object, or when that is complete. Errors:
  // FailedPrecondition (one runs already).
  virtual absl::StatusOr<std::unique_ptr<VmTrace>> StartTrace(absl::Duration duration) = 0;
  // The console of `device`; "": the only console. Errors: NotFound, InvalidArgument ("", but there
  // are several).
  virtual absl::StatusOr<ConsoleHub*> Console(absl::string_view device) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_VM_OPERATIONS_H_
