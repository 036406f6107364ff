#ifndef BULKHEAD_BASE_RELEASE_STARTUP_PAGES_H_
#define BULKHEAD_BASE_RELEASE_STARTUP_PAGES_H_

#include "absl/time/time.h"

namespace bulkhead {

// How long a process should be idle before it calls ReleaseStartupPages().
inline constexpr absl::Duration kIdleTime = absl::Milliseconds(100);

// Unmaps the pages of code and constants that the start-up has touched, and returns free heap to
// the kernel. Most of gRPC's code runs only once: it is 3 MB of a device process. A page that is
// needed again is mapped again from the page cache, in a microsecond. Breakpoints of a debugger are
// lost. Thread-safe.
void ReleaseStartupPages();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_RELEASE_STARTUP_PAGES_H_
