#ifndef BULKHEAD_VMM_SIDE_PROCESS_ALLOW_LIST_H_
#define BULKHEAD_VMM_SIDE_PROCESS_ALLOW_LIST_H_

#include <stdint.h>

#include "absl/types/span.h"

namespace bulkhead::vmm {

struct AllowedCall {
  uint32_t number;    // SYS_...
  int argument = -1;  // which one must be `value`; -1: none
  uint32_t value = 0;
};

// Has the kernel kill this process when it makes a system call that is not in `calls` (64 at most).
// For single-threaded processes with no_new_privs; allocates nothing. False: errno.
bool AllowOnly(absl::Span<const AllowedCall> calls);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SIDE_PROCESS_ALLOW_LIST_H_
