#ifndef BULKHEAD_BASE_CLOSE_ELSEWHERE_H_
#define BULKHEAD_BASE_CLOSE_ELSEWHERE_H_

#include <vector>

#include "base/unique_fd.h"

namespace bulkhead {

// Closes descriptors that came from a process that is not trusted, on a thread of this process that
// does nothing else: closing one may block for ever. It then keeps what comes after it open; where
// there can be no thread, all of them. Returns at once. Thread-safe.
void CloseElsewhere(std::vector<UniqueFd> descriptors);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_CLOSE_ELSEWHERE_H_
