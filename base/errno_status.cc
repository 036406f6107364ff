#include "base/errno_status.h"

#include <errno.h>
#include <string.h>

#include "absl/strings/str_cat.h"

namespace bulkhead {
namespace {

absl::StatusCode CodeOf(int error_number) {
  switch (error_number) {
    case EINVAL:
    case ENAMETOOLONG:
    case E2BIG:
    case EISDIR:
    case ENOTDIR:
    case ENOTTY:
      return absl::StatusCode::kInvalidArgument;
    case ETIMEDOUT:
      return absl::StatusCode::kDeadlineExceeded;
    case ENODEV:
    case ENOENT:
    case ENXIO:
    case ESRCH:
      return absl::StatusCode::kNotFound;
    case EEXIST:
    case EADDRINUSE:
      return absl::StatusCode::kAlreadyExists;
    case EPERM:
    case EACCES:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case EBUSY:
    case EBADF:
    case ECHILD:
    case EPIPE:
    case ENOTEMPTY:
      return absl::StatusCode::kFailedPrecondition;
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    case ERANGE:
    case EOVERFLOW:
    case EFBIG:
      return absl::StatusCode::kOutOfRange;
    case ENOSYS:
    case EOPNOTSUPP:
      return absl::StatusCode::kUnimplemented;
    case EAGAIN:
    case ECONNREFUSED:
    case ECONNRESET:
    case ENOTCONN:
      return absl::StatusCode::kUnavailable;
    case EINTR:
    case ECANCELED:
      return absl::StatusCode::kCancelled;
    default:
      return absl::StatusCode::kUnknown;
  }
}

}  // namespace

absl::Status ErrnoToStatus(int error_number, absl::string_view what) {
  char text[128];
  // The GNU strerror_r: returns the text, which need not be in the buffer.
  const char* message = strerror_r(error_number, text, sizeof(text));
  return absl::Status(CodeOf(error_number), absl::StrCat(what, ": ", message));
}

}  // namespace bulkhead
