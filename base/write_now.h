#ifndef BULKHEAD_BASE_WRITE_NOW_H_
#define BULKHEAD_BASE_WRITE_NOW_H_

#include "absl/strings/string_view.h"

namespace bulkhead {

// Writes without waiting for room, whether or not `fd` is non-blocking, in pieces that poll says
// there is room for: PIPE_BUF of a pipe, one byte of a terminal. Where others write to the same
// blocking descriptor they may take that room first, and this waits; base/log_queue.h never does.
// False: some or all is lost. Thread-safe.
bool WriteNow(int fd, absl::string_view bytes);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_WRITE_NOW_H_
