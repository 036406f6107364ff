#ifndef BULKHEAD_BASE_STEADY_TIME_H_
#define BULKHEAD_BASE_STEADY_TIME_H_

#include <chrono>

#include "absl/time/time.h"

namespace bulkhead {

// The steady clock, as an absl::Time: for intervals and deadlines. Setting the wall clock does not
// change it.
inline absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_STEADY_TIME_H_
