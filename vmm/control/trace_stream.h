#ifndef BULKHEAD_VMM_CONTROL_TRACE_STREAM_H_
#define BULKHEAD_VMM_CONTROL_TRACE_STREAM_H_

#include <atomic>
#include <memory>

#include "grpcpp/support/server_callback.h"
#include "proto/vm_control.pb.h"
#include "vmm/control/client_stream.h"
#include "vmm/control/open_calls.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// One Trace call. It buffers only the message that is being sent: what a slow client has not read
// stays in the rings, or is lost there.
class TraceStream final : public grpc::ServerWriteReactor<v1::TraceChunk>, public ClientStream {
 public:
  // The result is for the method's handler to return; gRPC then owns it. `streams` and `vm` must
  // outlive the call.
  static grpc::ServerWriteReactor<v1::TraceChunk>* Start(OpenCalls& streams, VmOperations& vm,
                                                         const v1::TraceRequest& request);

 private:
  explicit TraceStream(OpenCalls& streams) : streams_(streams) {}

  void OnWriteDone(bool ok) override { Notify({.written = true, .cancelled = !ok}); }
  void OnCancel() override { Notify({.cancelled = true}); }
  void OnDone() override;
  void Step(const Changes& changes) override;
  void FinishWith(const absl::Status& status);
  // Makes Step() look again when the next round is due.
  void Wait();

  OpenCalls& streams_;
  std::shared_ptr<ClientStream> self_;  // until OnDone()

  // Used by Step() only, and before the first one.
  std::unique_ptr<VmTrace> trace_;  // until the call is finished
  v1::TraceChunk message_;
  bool writing_ = false;
  bool finished_ = false;
  absl::Status end_;

  std::atomic<bool> waits_{false};  // a timer is set
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_TRACE_STREAM_H_
