#ifndef BULKHEAD_BASE_WRITE_NOW_H_
#define BULKHEAD_BASE_WRITE_NOW_H_

#include "absl/strings/string_view.h"

namespace bulkhead {

// Writes without blocking, whether or not `fd` is non-blocking, but in parts: a stopped terminal or
// a full pipe takes no byte more than poll says, and a pipe that is ready takes PIPE_BUF. False:
// some or all is lost. Thread-safe.
bool WriteNow(int fd, absl::string_view bytes);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_WRITE_NOW_H_
