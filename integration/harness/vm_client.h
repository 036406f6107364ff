#ifndef BULKHEAD_INTEGRATION_HARNESS_VM_CLIENT_H_
#define BULKHEAD_INTEGRATION_HARNESS_VM_CLIENT_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/vm_control.grpc.pb.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::integration {

// The path of the control socket of the VM of that name that this test started.
std::string ControlSocketOf(const std::string& vm_name);

// A client of one VM's control plane. Each call has a deadline of half a minute. Errors: as
// proto/vm_control.proto says, and Unavailable if nobody serves the socket.
class VmClient {
 public:
  explicit VmClient(const std::string& socket_path);

  absl::StatusOr<v1::VmStatus> GetStatus() const;
  absl::Status Shutdown() const;
  absl::Status Wake() const;
  absl::Status Stop() const;
  absl::Status Pause() const;
  absl::Status Resume() const;
  absl::StatusOr<v1::Device> GetDevice(const std::string& name) const;
  // `binary`: empty for the one that it has.
  absl::StatusOr<v1::Device> RestartDevice(const std::string& name,
                                           const std::string& binary = "") const;
  absl::StatusOr<v1::Device> ResetDevice(const std::string& name) const;
  absl::StatusOr<v1::Device> StopDevice(const std::string& name) const;
  absl::StatusOr<v1::Device> StartDevice(const std::string& name) const;
  absl::StatusOr<v1::VmMetrics> GetMetrics() const;
  // A snapshot, and the events that the VM still knows.
  absl::StatusOr<std::vector<v1::Event>> PastEvents() const;

 private:
  std::unique_ptr<v1::VmControl::Stub> stub_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_HARNESS_VM_CLIENT_H_
