#ifndef BULKHEAD_VMM_PROCESS_CONTROL_CLIENT_H_
#define BULKHEAD_VMM_PROCESS_CONTROL_CLIENT_H_

#include <atomic>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/close_elsewhere.h"
#include "base/unique_fd.h"
#include "proto/device_control.pb.h"
#include "vmm/process/call_watchdog.h"

namespace bulkhead::vmm {

// One call of a ControlClient. Another thread may cancel it at any time: before the call begins,
// while it runs, or after its end.
class ControlCall {
 public:
  // How long a call may take to return after its timeout or its cancellation. gRPC needs
  // microseconds, plus a few time slices on a host with many runnable threads.
  static constexpr absl::Duration kGrace = absl::Milliseconds(300);

  explicit ControlCall(absl::Duration timeout, absl::Duration grace = kGrace);
  ~ControlCall();

  // Returns within about kGrace.
  void Cancel();
  // True if Cancel() was called. A call's status does not show it: a device may answer with any
  // error.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  friend class ControlClient;
  class Context;  // hides gRPC's headers, which compile slowly

  // False: it was cancelled and must not begin.
  bool Begin(CallWatchdog::Guard& guard);
  void End();

  const absl::Duration timeout_;
  const absl::Duration grace_;
  const std::unique_ptr<Context> context_;
  std::atomic<bool> cancelled_{false};  // set before the cancellation can end the call
};

// Calls a device process's DeviceControl service (proto/device_control.proto) over the socket
// that it inherited. Thread-safe; each ControlCall is for one call.
//
// Every call blocks until it is answered, its timeout has passed, it is cancelled, or the process
// has closed the socket. The process may be hostile: it may send as many bytes as the calls need,
// or the connection is cut (control_relay.h). If gRPC does not end a call in time, the watchdog
// cuts it as well (call_watchdog.h), which ends the call. The client's destructor is guarded
// likewise. Answers are not decompressed, and gRPC buffers a bounded part of them.
//
// Errors: DeadlineExceeded, Cancelled, Unavailable (the process closed the socket, or the
// connection was cut before), Internal (the connection was cut: why_cut()), DataLoss (the answer
// cannot be parsed), Unimplemented (the device was built without this call), or what the process
// answers.
class ControlClient {
 public:
  // Makes gRPC, in the whole process, read a connection only on threads that make a call over it.
  // A device that floods its connection then does not keep another device's supervisor busy. Call
  // it first in main().
  static void IsolateConnections();

  // `socket`: one end of a stream socket pair; `closes` counts it until it is closed. Errors: as
  // ControlRelay, CallWatchdog::Get().
  static absl::StatusOr<std::unique_ptr<ControlClient>> Create(
      UniqueFd socket, std::shared_ptr<PendingCloses> closes = nullptr);
  ~ControlClient();

  // What the process did for which its connection was cut. Then every further call is Unavailable.
  // Empty: it was not.
  absl::string_view why_cut() const;

  absl::StatusOr<v1::DeviceInfo> Describe(ControlCall& call);
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
