#ifndef BULKHEAD_VMM_SANDBOX_FILTERED_CHILD_H_
#define BULKHEAD_VMM_SANDBOX_FILTERED_CHILD_H_

#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// How a child process ended that ran under the filter of a device.
struct FilteredEnd {
  int exit_code = -1;     // -1: it did not exit by itself
  std::string violation;  // of DescribeViolation(); empty: none. The child was killed for it
  std::string error;      // what did not work, of the test itself
};

// Runs `body` in a child process of one thread under the filter of `device_policy`, and its result
// is the exit code. Until that is in place it calls `prepare`.
FilteredEnd RunFiltered(
    absl::string_view device_policy, const std::function<int()>& body,
    const std::function<void()>& prepare = [] {});

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_FILTERED_CHILD_H_
