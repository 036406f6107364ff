#ifndef BULKHEAD_DEVICES_HOST_SECCOMP_FILTER_H_
#define BULKHEAD_DEVICES_HOST_SECCOMP_FILTER_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bulkhead::devices {

// Installs AttachRequest.seccomp_filter in all threads, for good. Does nothing with an empty one.
// Errors: InvalidArgument (its size), and as seccomp(2).
absl::Status InstallSeccompFilter(absl::string_view bytes);

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_SECCOMP_FILTER_H_
