#ifndef BULKHEAD_BASE_STEADY_TIME_H_
#define BULKHEAD_BASE_STEADY_TIME_H_

#include <chrono>

#include "absl/time/time.h"

namespace bulkhead {

// The time since some moment in the past, which setting the clock does not change: for intervals
// and deadlines that must hold whatever an operator or a time service does.
inline absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_STEADY_TIME_H_
