#ifndef BULKHEAD_VMM_CONTROL_EVENT_STREAM_H_
#define BULKHEAD_VMM_CONTROL_EVENT_STREAM_H_

#include <memory>

#include "grpcpp/support/server_callback.h"
#include "proto/vm_control.pb.h"
#include "vmm/control/client_stream.h"
#include "vmm/control/event_feed.h"
#include "vmm/control/open_calls.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// One WatchEvents call. It buffers only the message that is being sent: events that the client has
// not read stay in the log.
class EventStream final : public grpc::ServerWriteReactor<v1::Event>, public ClientStream {
 public:
  // The result is for the method's handler to return; gRPC then owns it. `streams` and `vm` must
  // outlive the call.
  static grpc::ServerWriteReactor<v1::Event>* Start(OpenCalls& streams, VmOperations& vm,
                                                    bool only_past);

 private:
  EventStream(OpenCalls& streams, VmOperations& vm, bool only_past)
      : streams_(streams), feed_(vm, only_past) {}

  void OnWriteDone(bool ok) override { Notify({.written = true, .cancelled = !ok}); }
  void OnCancel() override { Notify({.cancelled = true}); }
  void OnDone() override;
  void Step(const Changes& changes) override;

  OpenCalls& streams_;
  std::shared_ptr<ClientStream> self_;  // until OnDone()

  // Used by Step() only.
  EventFeed feed_;
  v1::Event message_;
  bool writing_ = false;
  bool finished_ = false;
  absl::Status end_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_EVENT_STREAM_H_
