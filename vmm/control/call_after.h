#ifndef BULKHEAD_VMM_CONTROL_CALL_AFTER_H_
#define BULKHEAD_VMM_CONTROL_CALL_AFTER_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "grpcpp/alarm.h"
#include "proto/grpc_deadline.h"

namespace bulkhead::vmm {

// Calls `call` on a thread of gRPC's.
inline void CallAfter(absl::Duration time, std::function<void()> call) {
  auto alarm = std::make_shared<std::unique_ptr<grpc::Alarm>>(std::make_unique<grpc::Alarm>());
  (*alarm)->Set(GrpcDeadline(time), [alarm, call = std::move(call)](bool) {
    const std::unique_ptr<grpc::Alarm> fired = std::move(*alarm);  // no longer needed
    call();
  });
}

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CALL_AFTER_H_
