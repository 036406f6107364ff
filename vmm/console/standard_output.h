#ifndef BULKHEAD_VMM_CONSOLE_STANDARD_OUTPUT_H_
#define BULKHEAD_VMM_CONSOLE_STANDARD_OUTPUT_H_

#include <stddef.h>
#include <stdint.h>

#include <utility>

#include "absl/strings/string_view.h"
#include "base/shared_stream.h"

namespace bulkhead::vmm {

// Writes output to a stream, or drops it if the stream's reader is gone. Expects SIGPIPE to be
// ignored. Thread-compatible.
class StandardOutput {
 public:
  // A regular file grows by `max_file_bytes` at most: a guest cannot fill the host's disk.
  StandardOutput(SharedStream stream, uint64_t max_file_bytes)
      : stream_(std::move(stream)), file_bytes_left_(max_file_bytes) {}

  int fd() const { return stream_.fd(); }

  // Writes what can be written now. Returns how many bytes were written or dropped; if that is not
  // all, try again once fd() is writable.
  size_t Write(absl::string_view bytes);

 private:
  void ReportOnce(absl::string_view why);

  SharedStream stream_;
  uint64_t file_bytes_left_;
  bool reported_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_STANDARD_OUTPUT_H_
