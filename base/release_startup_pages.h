#ifndef BULKHEAD_BASE_RELEASE_STARTUP_PAGES_H_
#define BULKHEAD_BASE_RELEASE_STARTUP_PAGES_H_

#include "absl/time/time.h"

namespace bulkhead {

// How long a process should have been idle before that.
inline constexpr absl::Duration kIdleTime = absl::Milliseconds(100);

// Unmaps the pages of code and constants that start-up has touched, and gives free heap back.
// Most of gRPC's code runs once; what is needed again is mapped again from the page cache, a
// microsecond a fault. Without it a device process holds 3 MB of text that it never runs again.
// Breakpoints that a debugger has set are lost. Thread-safe.
void ReleaseStartupPages();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_RELEASE_STARTUP_PAGES_H_
