#ifndef BULKHEAD_DEVICES_UART16550_OUTPUT_STREAM_H_
#define BULKHEAD_DEVICES_UART16550_OUTPUT_STREAM_H_

#include <stddef.h>
#include <stdint.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"

namespace bulkhead::devices::uart16550 {

// Writes to a descriptor that other processes use too (a terminal, a pipe, a log file), and
// never waits for a slow reader. O_NONBLOCK is not the means: it would change the descriptor
// for those other processes, the user's shell among them, and outlive this one.
//
// Expects SIGPIPE to be ignored. Thread-compatible.
class OutputStream {
 public:
  // A regular file gets at most `max_file_bytes`: a guest cannot fill the host's disk.
  // Errors: as fstat(2), epoll_create1(2).
  static absl::StatusOr<OutputStream> Create(UniqueFd fd, uint64_t max_file_bytes);

  // Writes what can be written now. Returns how many bytes are done with: written, or dropped
  // because the descriptor takes no more. If that is not all, readiness_fd() becomes readable
  // once it is worth to try again, until AcknowledgeReadiness().
  size_t Write(absl::Span<const uint8_t> bytes);

  // For polling. Constant.
  int readiness_fd() const { return readiness_.get(); }
  void AcknowledgeReadiness();

 private:
  enum class Kind { kFile, kSocket, kOther };

  OutputStream(UniqueFd fd, UniqueFd readiness, Kind kind, uint64_t max_file_bytes)
      : fd_(std::move(fd)),
        readiness_(std::move(readiness)),
        kind_(kind),
        file_bytes_left_(max_file_bytes) {}

  // As write(2), without blocking; -1 and EAGAIN if nothing can be written now.
  ssize_t TryWrite(absl::Span<const uint8_t> bytes);
  ssize_t TryWriteFile(absl::Span<const uint8_t> bytes);
  ssize_t TryWriteOther(absl::Span<const uint8_t> bytes);
  bool IsWritable() const;
  bool AwaitReadiness();
  void ReportOnce(absl::string_view why);

  UniqueFd fd_;
  // An epoll set of fd_ alone: readable when fd_ is writable, once each time it is armed.
  UniqueFd readiness_;
  Kind kind_;
  uint64_t file_bytes_left_;
  bool registered_ = false;  // fd_ in readiness_
  bool has_nowait_ = true;   // until the kernel says that RWF_NOWAIT is not for this descriptor
  bool reported_ = false;
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_OUTPUT_STREAM_H_
