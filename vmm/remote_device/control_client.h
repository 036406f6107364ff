#ifndef BULKHEAD_VMM_REMOTE_DEVICE_CONTROL_CLIENT_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_CONTROL_CLIENT_H_

#include <atomic>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "proto/device_control.pb.h"

namespace bulkhead::vmm {

// One call of a ControlClient, which another thread may cancel: before it is made, meanwhile, or
// when it is over.
class ControlCall {
 public:
  explicit ControlCall(absl::Duration timeout);
  ~ControlCall();

  void Cancel();
  // A device may answer with any error: whether it was cancelled, only this tells.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  friend class ControlClient;
  class Context;  // keeps gRPC's headers out of here: they compile slowly

  const std::unique_ptr<Context> context_;
  std::atomic<bool> cancelled_{false};  // set before the call can end by it
};

// Calls a device process's DeviceControl service (proto/device_control.proto) over the socket
// that it inherited. Thread-safe. Every call blocks until it is answered, its timeout has passed,
// it is cancelled, or the process has closed the socket; each ControlCall serves once.
//
// Errors: DeadlineExceeded, Cancelled, Unavailable (the process closed the socket), Unimplemented
// (the device was built without this call), or what the process answers.
class ControlClient {
 public:
  // `socket`: one end of a stream socket pair. Errors: as fcntl(2).
  static absl::StatusOr<std::unique_ptr<ControlClient>> Create(UniqueFd socket);
  ~ControlClient();

  absl::StatusOr<v1::PciInfo> GetPciInfo(ControlCall& call);
  absl::StatusOr<v1::HeartbeatReply> Heartbeat(ControlCall& call);
  absl::Status Reset(ControlCall& call);
  absl::Status Quiesce(ControlCall& call);
  absl::Status Resume(ControlCall& call);
  absl::StatusOr<v1::DeviceMetrics> GetMetrics(ControlCall& call);
  absl::Status Shutdown(ControlCall& call);

 private:
  class Impl;

  explicit ControlClient(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_CONTROL_CLIENT_H_
