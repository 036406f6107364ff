#ifndef BULKHEAD_VMM_SIDE_PROCESS_SIDE_LOG_H_
#define BULKHEAD_VMM_SIDE_PROCESS_SIDE_LOG_H_

#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// For processes that are forked from the vmm: its log has a thread, which they do not have.
// Writes a line to standard error, as the vmm's log looks, and does not wait for a reader.
void WriteLogLine(absl::string_view text);

// A status of waitpid(2): "ended by signal 9", "ended with exit code 3".
std::string HowItEnded(int status);

// By the monotonic clock.
int64_t NowMs();

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SIDE_PROCESS_SIDE_LOG_H_
