#ifndef BULKHEAD_VMM_CONTROL_LONG_CALL_H_
#define BULKHEAD_VMM_CONTROL_LONG_CALL_H_

#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/support/server_callback.h"
#include "vmm/control/open_calls.h"
#include "vmm/control/vm_operations.h"

namespace bulkhead::vmm {

// A call that the VM answers later, on any thread. The first of these finishes it: the VM's answer,
// the client's cancellation, or the server's end. A late answer of the VM is dropped.
class LongCall final : public grpc::ServerUnaryReactor, public OpenCall {
 public:
  // The result is for the method's handler to return; gRPC then owns it. `operation` gets the
  // function to call when it is done; if it succeeded, `answer` fills in the reply. `calls` must
  // outlive the call.
  static grpc::ServerUnaryReactor* Start(OpenCalls& calls,
                                         const std::function<void(VmOperations::Done)>& operation,
                                         std::function<absl::Status()> answer);

  void Pump() override {}
  void End(const absl::Status& why) override;

 private:
  explicit LongCall(OpenCalls& calls) : calls_(calls) {}

  // True for one caller: it must Finish() the call, which lives until then.
  bool Claim();
  void OnCancel() override;
  void OnDone() override;

  OpenCalls& calls_;
  std::shared_ptr<LongCall> self_;  // until OnDone()
  absl::Mutex mutex_;
  bool claimed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_LONG_CALL_H_
