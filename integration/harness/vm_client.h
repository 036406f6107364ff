#ifndef BULKHEAD_INTEGRATION_HARNESS_VM_CLIENT_H_
#define BULKHEAD_INTEGRATION_HARNESS_VM_CLIENT_H_

#include <stdint.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/vm_control.pb.h"
#include "tools/vmctl/vm_client.h"

namespace bulkhead::integration {

// The path of the control socket of the VM of that name that this test started.
std::string ControlSocketOf(const std::string& vm_name);

// vmctl's client of one VM, with a new connection for each call: a VM closes idle ones. Each call
// has a deadline of half a minute. Errors: as vmctl::VmClient, and NotFound if no process listens.
class VmClient {
 public:
  explicit VmClient(std::string socket_path) : socket_path_(std::move(socket_path)) {}

  absl::StatusOr<v1::VmStatus> GetStatus() const { return Call(&Vm::GetStatus); }
  absl::Status Shutdown() const { return Call(&Vm::Shutdown).status(); }
  absl::Status Wake() const { return Call(&Vm::Wake); }
  absl::Status Stop() const { return Call(&Vm::Stop); }
  absl::Status Pause() const { return Call(&Vm::Pause); }
  absl::Status Resume(bool report_errors = false) const { return Call(&Vm::Resume, report_errors); }
  absl::StatusOr<v1::Device> GetDevice(const std::string& name) const {
    return Call(&Vm::GetDevice, name);
  }
  // The process that serves a device, or kNoProcess. In contrast to a look at /proc it is never a
  // spare or one that is being replaced.
  pid_t PidOf(const std::string& name) const;
  // Kills the process that serves a device. Waits for one, while it is being replaced, half a
  // minute at most.
  bool KillProcessOf(const std::string& name) const;
  // How many processes have served a device, or 0.
  uint64_t GenerationOf(const std::string& name) const;
  // Waits for the device's process of that generation or a later one, for half a minute at most.
  bool AwaitGeneration(const std::string& name, uint64_t generation) const;
  // `binary`: empty for the present one.
  absl::StatusOr<v1::Device> RestartDevice(const std::string& name,
                                           const std::string& binary = "") const;
  // `bytes`: 0 for what the host has made of the file.
  absl::StatusOr<v1::Device> ResizeDisk(const std::string& name, uint64_t bytes) const;
  absl::StatusOr<v1::Device> LimitDevice(const v1::LimitDeviceRequest& request) const {
    return Call(&Vm::LimitDevice, request);
  }
  absl::StatusOr<v1::Device> StopDevice(const std::string& name) const {
    return Call(&Vm::StopDevice, name);
  }
  absl::StatusOr<v1::Device> SetDeviceLink(const std::string& name, bool up) const {
    return Call(&Vm::SetDeviceLink, name, up);
  }
  absl::StatusOr<v1::Balloon> GetBalloon() const { return Call(&Vm::GetBalloon); }
  absl::StatusOr<v1::Balloon> SetBalloon(uint64_t target_bytes) const {
    return Call(&Vm::SetBalloon, target_bytes);
  }
  absl::StatusOr<v1::VmMetrics> GetMetrics() const { return Call(&Vm::GetMetrics); }
  // The value of the metric bulkhead_device_model_`name` of a device; -1: there is none.
  double DeviceMetric(const std::string& device, const std::string& name) const;
  // A snapshot, and the events that the VM still has.
  absl::StatusOr<std::vector<v1::Event>> PastEvents() const;

 private:
  using Vm = vmctl::VmClient;

  absl::StatusOr<std::unique_ptr<Vm>> Connect() const;

  template <typename Method, typename... Arguments>
  std::invoke_result_t<Method, Vm&, Arguments...> Call(Method method,
                                                       const Arguments&... arguments) const {
    const absl::StatusOr<std::unique_ptr<Vm>> vm = Connect();
    if (!vm.ok()) return vm.status();
    return std::invoke(method, **vm, arguments...);
  }

  std::string socket_path_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_HARNESS_VM_CLIENT_H_
