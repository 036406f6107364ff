#ifndef BULKHEAD_DEVICES_HOST_SHORTAGE_H_
#define BULKHEAD_DEVICES_HOST_SHORTAGE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bulkhead::devices {

// A device process that the host does not give the threads, memory or descriptors that it needs
// ends with kDeviceExitShortage (proto/contract.h), and says what is lacking. gRPC and the standard
// library would abort instead, which looks like a fault of the device.

// From now on memory that cannot be had, and an exception that says that a thread or memory cannot
// be had, end the process so. Likewise every thread that cannot be started, until
// AllowLackOfThreads().
void EndOnShortage();

// From now on a thread that cannot be started is an error that its starter handles.
void AllowLackOfThreads();

// Errors: ResourceExhausted (this process may not open what gRPC opens).
absl::Status CheckOpenFiles();

[[noreturn]] void EndForShortage(absl::string_view what);

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_SHORTAGE_H_
