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

// One WatchEvents call. It holds the message that is being sent, and that alone: what the client
// does not read stays in the log.
class EventStream final : public grpc::ServerWriteReactor<v1::Event>, public ClientStream {
 public:
  // For the method's handler to return: gRPC's from then on. `streams` and `vm` outlive the call.
  static grpc::ServerWriteReactor<v1::Event>* Start(OpenCalls& streams, VmOperations& vm,
                                                    bool only_past);

 private:
  EventStream(OpenCalls& streams, VmOperations& vm, bool only_past)
      : streams_(streams), feed_(vm, only_past) {}

  void OnWriteDone(bool ok) override { Tell({.written = true, .cancelled = !ok}); }
  void OnCancel() override { Tell({.cancelled = true}); }
  void OnDone() override;
  void Step(const News& news) override;

  OpenCalls& streams_;
  std::shared_ptr<ClientStream> self_;  // until OnDone()

  // Step()'s.
  EventFeed feed_;
  v1::Event message_;
  bool writing_ = false;
  bool finished_ = false;
  absl::Status end_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_EVENT_STREAM_H_
