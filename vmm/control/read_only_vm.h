#ifndef BULKHEAD_VMM_CONTROL_READ_ONLY_VM_H_
#define BULKHEAD_VMM_CONTROL_READ_ONLY_VM_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// A VM for clients that may only look: what would change it fails with PermissionDenied, and so do
// consoles, into which a client could type. Thread-safe. A new operation does not compile until it
// is listed here.
class ReadOnlyVm final : public VmOperations {
 public:
  // `vm` must outlive this. `control_socket`: where changes are possible; empty: nowhere.
  ReadOnlyVm(VmOperations& vm, absl::string_view control_socket)
      : vm_(vm),
        refusal_(absl::PermissionDeniedError(absl::StrCat(
            "the monitor socket is read-only: ",
            control_socket.empty() ? "this VM has no control socket"
                                   : absl::StrCat("use the control socket, ", control_socket)))) {}

  v1::VmStatus Status() const override { return vm_.Status(); }
  std::vector<v1::Device> Devices() const override { return vm_.Devices(); }
  absl::StatusOr<v1::Device> Device(absl::string_view name) const override {
    return vm_.Device(name);
  }
  v1::VmMetrics Metrics() const override { return vm_.Metrics(); }
  void RefreshMetrics(Done done) override { vm_.RefreshMetrics(std::move(done)); }
  absl::StatusOr<v1::Balloon> Balloon() const override { return vm_.Balloon(); }
  EventLog& events() override { return vm_.events(); }

  absl::StatusOr<bool> PressPowerButton() override { return refusal_; }
  absl::Status Wake() override { return refusal_; }
  absl::Status Stop(absl::string_view) override { return refusal_; }
  void Pause(Done done) override { done(refusal_); }
  void Resume(bool, Done done) override { done(refusal_); }
  void RestartDevice(const v1::RestartDeviceRequest&, Done done) override { done(refusal_); }
  void ResizeDisk(const v1::ResizeDiskRequest&, Done done) override { done(refusal_); }
  void LimitDevice(const v1::LimitDeviceRequest&, Done done) override { done(refusal_); }
  void ResetDevice(absl::string_view, Done done) override { done(refusal_); }
  void StopDevice(absl::string_view, Done done) override { done(refusal_); }
  void StartDevice(absl::string_view, Done done) override { done(refusal_); }
  absl::Status SetDeviceLink(absl::string_view, bool) override { return refusal_; }
  absl::Status SetBalloon(uint64_t) override { return refusal_; }
  absl::StatusOr<ConsoleHub*> Console(absl::string_view) override { return refusal_; }
  // It changes nothing, but slows the guest down, and shows what it does when.
  absl::StatusOr<std::unique_ptr<VmTrace>> StartTrace(absl::Duration) override { return refusal_; }

 private:
  VmOperations& vm_;
  const absl::Status refusal_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_READ_ONLY_VM_H_
