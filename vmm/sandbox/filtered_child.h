#ifndef BULKHEAD_VMM_SANDBOX_FILTERED_CHILD_H_
#define BULKHEAD_VMM_SANDBOX_FILTERED_CHILD_H_

#include <functional>
#include <string>

namespace bulkhead::vmm {

// How a child process ended that ran under the filter of a device.
struct FilteredEnd {
  int exit_code = -1;     // -1: it did not exit by itself
  std::string violation;  // of DescribeViolation(); empty: none. The child was killed for it
  std::string error;      // what did not work, of the test itself
};

// Runs `body` in a child process of one thread under the filter of `device_policy`; its result is
// the exit code.
struct FilteredChild {
  std::string device_policy = {};
  std::function<void()> prepare = [] {};  // in the child, before the filter is in place
  std::function<int()> body;
  std::function<void()> meanwhile = [] {};  // in this process, once it is
};
FilteredEnd RunFiltered(const FilteredChild& child);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_FILTERED_CHILD_H_
