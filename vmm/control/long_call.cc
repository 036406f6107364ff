#include "vmm/control/long_call.h"

#include <utility>

#include "vmm/control/grpc_status.h"

namespace bulkhead::vmm {

grpc::ServerUnaryReactor* LongCall::Start(OpenCalls& calls,
                                          const std::function<void(VmOperations::Done)>& operation,
                                          std::function<absl::Status()> answer) {
  const std::shared_ptr<LongCall> call(new LongCall(calls));
  call->self_ = call;
  if (absl::Status status = calls.Add(call); !status.ok()) {
    if (call->Claim()) call->Finish(ToGrpcStatus(status));
    return call.get();
  }
  operation([call, answer = std::move(answer)](absl::Status status) {
    // After the claim, the call stays open until Finish(), so the server and the VM still exist.
    if (!call->Claim()) return;
    if (status.ok()) status = answer();
    call->Finish(ToGrpcStatus(status));
  });
  return call.get();
}

bool LongCall::Claim() {
  absl::MutexLock lock(&mutex_);
  return !std::exchange(claimed_, true);
}

void LongCall::End(const absl::Status& why) {
  if (Claim()) Finish(ToGrpcStatus(why));
}

void LongCall::OnCancel() {
  if (Claim()) Finish(grpc::Status::CANCELLED);
}

void LongCall::OnDone() {
  calls_.Remove(this);
  self_.reset();
}

}  // namespace bulkhead::vmm
