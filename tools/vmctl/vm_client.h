#ifndef BULKHEAD_TOOLS_VMCTL_VM_CLIENT_H_
#define BULKHEAD_TOOLS_VMCTL_VM_CLIENT_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "proto/vm_control.pb.h"
#include "tools/vmctl/discovery.h"

namespace grpc {
class CompletionQueue;
}  // namespace grpc

namespace bulkhead::vmctl {

class ConsoleStream;

// Calls one VM's VmControl service (proto/vm_control.proto). Thread-compatible.
//
// Errors are for the operator: a code, and one line that names the VM and says what to do.
// Unavailable: the VM has ended, or is ending; DeadlineExceeded: no answer within the time-out;
// else the VM's answer.
class VmClient {
 public:
  // Each plain call waits for its answer for `timeout` at most; InfiniteDuration(): until the VM
  // ends. Errors: those of ConnectSocket().
  static absl::StatusOr<std::unique_ptr<VmClient>> Connect(const VmAddress& address,
                                                           absl::Duration timeout);
  ~VmClient();

  const VmAddress& address() const;

  absl::StatusOr<v1::VmStatus> GetStatus();
  // False: the guest has not enabled its power button yet; the press is kept until it does.
  absl::StatusOr<bool> Shutdown();
  absl::Status Wake();
  absl::Status Stop();
  absl::Status Pause();
  absl::Status Resume(bool report_errors = false);

  absl::StatusOr<v1::ListDevicesReply> ListDevices();
  absl::StatusOr<v1::Device> GetDevice(const std::string& name);
  absl::StatusOr<v1::Device> RestartDevice(const v1::RestartDeviceRequest& request);
  absl::StatusOr<v1::Device> ResizeDisk(const v1::ResizeDiskRequest& request);
  absl::StatusOr<v1::Device> LimitDevice(const v1::LimitDeviceRequest& request);
  absl::StatusOr<v1::Device> ResetDevice(const std::string& name);
  absl::StatusOr<v1::Device> StopDevice(const std::string& name);
  absl::StatusOr<v1::Device> StartDevice(const std::string& name);
  absl::StatusOr<v1::Device> SetDeviceLink(const std::string& name, bool up);
  absl::StatusOr<v1::Balloon> GetBalloon();
  absl::StatusOr<v1::Balloon> SetBalloon(uint64_t target_bytes);
  absl::StatusOr<v1::VmMetrics> GetMetrics();
  // As GetMetrics(), but returns at once. ServeAnswers() of that queue calls `done`, exactly once
  // and within the time-out; the client must outlive that call. An error's text is gRPC's. Not by
  // gRPC's callbacks: the queue that serves them lives as long as a channel that uses it, and
  // gRPC 1.51 may abort when the last one goes.
  void StartGetMetrics(grpc::CompletionQueue& answers,
                       std::function<void(absl::StatusOr<v1::VmMetrics>)> done);
  // Returns when the queue was shut down.
  static void ServeAnswers(grpc::CompletionQueue& answers);

  // Calls `on_event` for the snapshot and each event, until the VM ends the stream, `on_event`
  // returns false (both: OK), or `timeout` has passed.
  absl::Status WatchEvents(bool only_past, absl::Duration timeout,
                           const std::function<bool(const v1::Event&)>& on_event);

  // Calls `on_chunk` for each chunk of a trace, until it is complete, or `on_chunk` returns false
  // (both: OK).
  absl::Status Trace(absl::Duration duration,
                     const std::function<bool(const v1::TraceChunk&)>& on_chunk);

  // `device`: "" is the VM's only console. The stream reports errors. The client must outlive it.
  absl::StatusOr<std::unique_ptr<ConsoleStream>> AttachConsole(const std::string& device);

  // The vmm's process. It is not a child: only poll its descriptor. Errors: as pidfd_open(2);
  // FailedPrecondition (it lives in another pid namespace).
  const absl::StatusOr<PidFd>& vmm_process() const;

 private:
  class Impl;  // keeps gRPC's headers out of here: they compile slowly

  explicit VmClient(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_VM_CLIENT_H_
