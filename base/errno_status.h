#ifndef BULKHEAD_BASE_ERRNO_STATUS_H_
#define BULKHEAD_BASE_ERRNO_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bulkhead {

// "<what>: <strerror>", with the canonical code that fits `error_number` (ENOENT is
// NotFound, EACCES is PermissionDenied, ...). Thread-safe.
absl::Status ErrnoToStatus(int error_number, absl::string_view what);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_ERRNO_STATUS_H_
