#ifndef BULKHEAD_BASE_ERRNO_STATUS_H_
#define BULKHEAD_BASE_ERRNO_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bulkhead {

// The status for an errno value: code as the value means (ENOENT: NotFound, EACCES:
// PermissionDenied, ...), message "<what>: <strerror>". Thread-safe.
absl::Status ErrnoToStatus(int error_number, absl::string_view what);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_ERRNO_STATUS_H_
