#ifndef BULKHEAD_DEVICES_HOST_RELEASE_STARTUP_PAGES_H_
#define BULKHEAD_DEVICES_HOST_RELEASE_STARTUP_PAGES_H_

namespace bulkhead::devices {

// Unmaps the pages of code and constants that start-up has touched, and gives free heap back.
// Most of gRPC's code runs once; what is needed again is mapped again from the page cache, a
// microsecond a fault. Without it a device process holds 5 MB of text that it never runs again.
void ReleaseStartupPages();

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_RELEASE_STARTUP_PAGES_H_
