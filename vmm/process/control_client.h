#ifndef BULKHEAD_VMM_PROCESS_CONTROL_CLIENT_H_
#define BULKHEAD_VMM_PROCESS_CONTROL_CLIENT_H_

#include <atomic>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "proto/device_control.pb.h"
#include "vmm/process/call_watchdog.h"

namespace bulkhead::vmm {

// One call of a ControlClient, which another thread may cancel: before it is made, meanwhile, or
// when it is over.
class ControlCall {
 public:
  // How long a call may go on once its time is up or it is cancelled. gRPC needs microseconds,
  // and a host with many runnable threads a few time slices.
  static constexpr absl::Duration kGrace = absl::Milliseconds(300);

  explicit ControlCall(absl::Duration timeout, absl::Duration grace = kGrace);
  ~ControlCall();

  // Returns within kGrace and a moment.
  void Cancel();
  // A device may answer with any error: whether it was cancelled, only this tells.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  friend class ControlClient;
  class Context;  // keeps gRPC's headers out of here: they compile slowly

  // False: it was cancelled, and does not begin.
  bool Begin(CallWatchdog::Guard& guard);
  void End();

  const absl::Duration timeout_;
  const absl::Duration grace_;
  const std::unique_ptr<Context> context_;
  std::atomic<bool> cancelled_{false};  // set before the call can end by it
};

// Calls a device process's DeviceControl service (proto/device_control.proto) over the socket
// that it inherited. Thread-safe; each ControlCall serves once.
//
// Every call blocks until it is answered, its timeout has passed, it is cancelled, or the process
// has closed the socket. The process may do what it likes with its end of the socket: a call that
// gRPC does not end in time is ended from outside (call_watchdog.h), and with it the connection.
// So is the destruction of the client. An answer is not unpacked, and what gRPC buffers of it is
// bounded.
//
// Errors: DeadlineExceeded, Cancelled, Unavailable (the process closed the socket, or the
// connection was cut), DataLoss (the answer cannot be parsed), Unimplemented (the device was built
// without this call), or what the process answers.
class ControlClient {
 public:
  // Has gRPC read a connection only on threads that make a call over it, in this whole process: a
  // device that floods its connection then keeps no other device's supervisor busy. Call it first
  // thing in main().
  static void IsolateConnections();

  // `socket`: one end of a stream socket pair. Errors: as fcntl(2), CallWatchdog::Get().
  static absl::StatusOr<std::unique_ptr<ControlClient>> Create(UniqueFd socket);
  ~ControlClient();

  // A call had to be ended from outside: every further call is Unavailable.
  bool cut() const;

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

#endif  // BULKHEAD_VMM_PROCESS_CONTROL_CLIENT_H_
