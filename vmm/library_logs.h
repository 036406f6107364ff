#ifndef BULKHEAD_VMM_LIBRARY_LOGS_H_
#define BULKHEAD_VMM_LIBRARY_LOGS_H_

namespace bulkhead::vmm {

// What gRPC and protobuf would print to standard error goes through the log: their own writes block
// where nobody reads, and what they quote of a device's messages is not theirs. Call before either
// is used.
void RouteLibraryLogs();

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LIBRARY_LOGS_H_
