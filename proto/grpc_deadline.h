#ifndef BULKHEAD_PROTO_GRPC_DEADLINE_H_
#define BULKHEAD_PROTO_GRPC_DEADLINE_H_

#include "absl/time/time.h"
#include "grpc/support/time.h"

namespace bulkhead {

// The deadline of a call, or of a server's shutdown, that is `timeout` away. By the monotonic
// clock, since the wall clock may be set.
inline gpr_timespec GrpcDeadline(absl::Duration timeout) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(absl::ToInt64Nanoseconds(timeout), GPR_TIMESPAN));
}

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_GRPC_DEADLINE_H_
