#ifndef BULKHEAD_VMM_REMOTE_DEVICE_CONTROL_CLIENT_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_CONTROL_CLIENT_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "proto/device_control.pb.h"

namespace bulkhead::vmm {

// Calls a device process's DeviceControl service (proto/device_control.proto) over the socket
// that it inherited. Thread-safe.
class ControlClient {
 public:
  // `socket`: one end of a stream socket pair. Errors: as fcntl(2).
  static absl::StatusOr<std::unique_ptr<ControlClient>> Create(UniqueFd socket);
  ~ControlClient();

  // Errors: DeadlineExceeded, Unavailable (the process closed the socket), or what it answers.
  absl::StatusOr<v1::PciInfo> GetPciInfo(absl::Duration timeout);

 private:
  class Impl;  // keeps gRPC's headers out of here: they compile slowly

  explicit ControlClient(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_CONTROL_CLIENT_H_
