#ifndef BULKHEAD_VMM_CONTROL_GRPC_STATUS_H_
#define BULKHEAD_VMM_CONTROL_GRPC_STATUS_H_

#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace bulkhead::vmm {

// The codes have the same numbers.
inline grpc::Status ToGrpcStatus(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_GRPC_STATUS_H_
