#ifndef BULKHEAD_PROTO_BALLOON_LINK_H_
#define BULKHEAD_PROTO_BALLOON_LINK_H_

#include <stdint.h>

#include "absl/strings/string_view.h"

// The resource "target" of a balloon: a pipe from the vmm with one BalloonTarget for each change
// that the operator makes, and first the present one. The last one counts.

namespace bulkhead {

inline constexpr char kBalloonTargetResource[] = "target";

// What the guest is to give up, in bytes.
using BalloonTarget = uint64_t;

// The metric by which the vmm learns how much the guest has given up, in bytes.
inline constexpr absl::string_view kBalloonActualMetric = "actual_bytes";

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_BALLOON_LINK_H_
