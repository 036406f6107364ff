#ifndef BULKHEAD_DEVICES_HOST_CONTROL_SERVER_H_
#define BULKHEAD_DEVICES_HOST_CONTROL_SERVER_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "devices/host/control_mailbox.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// Serves DeviceControl (proto/device_control.proto) on the socket to the vmm, on threads of
// its own. It never touches the model: what it is asked for goes into the mailbox of the thread
// that may. Thread-safe.
class ControlServer {
 public:
  // `socket`: a connected stream socket. `info`: the answer to Describe. `mailbox` outlives this.
  // Errors: Internal (gRPC did not start).
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(UniqueFd socket,
                                                              const v1::DeviceInfo& info,
                                                              ControlMailbox& mailbox);
  // Closes the mailbox, which releases every caller.
  ~ControlServer();

 private:
  class Impl;  // keeps gRPC's headers out of here: they compile slowly

  explicit ControlServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_CONTROL_SERVER_H_
