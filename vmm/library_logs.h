#ifndef BULKHEAD_VMM_LIBRARY_LOGS_H_
#define BULKHEAD_VMM_LIBRARY_LOGS_H_

namespace bulkhead::vmm {

// Routes the messages of gRPC and protobuf to the log instead of standard error: their own writes
// block if standard error is not read, and they quote unescaped text of devices. Call before either
// library is used.
void RouteLibraryLogs();

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LIBRARY_LOGS_H_
