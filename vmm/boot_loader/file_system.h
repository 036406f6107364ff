#ifndef BULKHEAD_VMM_BOOT_LOADER_FILE_SYSTEM_H_
#define BULKHEAD_VMM_BOOT_LOADER_FILE_SYSTEM_H_

#include <stdint.h>

#include <limits>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace bulkhead::boot_loader {

// Bytes of a file: those of them that it has.
struct FilePart {
  uint64_t offset = 0;
  uint64_t bytes = std::numeric_limits<uint64_t>::max();
};

// A file system on the guest's disk. Paths begin with '/', and may lead over symbolic links.
// Errors of all calls: NotFound (there is no such regular file, or folder), DataLoss (it cannot be
// read). Thread-compatible.
class FileSystem {
 public:
  using Sink = absl::FunctionRef<absl::Status(absl::Span<const uint8_t>)>;

  virtual ~FileSystem() = default;

  virtual std::string uuid() const = 0;
  virtual std::string label() const = 0;

  virtual absl::StatusOr<uint64_t> FileSize(const std::string& path) const = 0;
  // Calls `sink` with one piece after the other. Errors: also those of `sink`.
  virtual absl::Status CopyPart(const std::string& path, const FilePart& part, Sink sink) const = 0;
  // The names in a folder, sorted, at most a thousand.
  virtual absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path) const = 0;

  // Errors: also ResourceExhausted (it is larger).
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes,
                                       const FilePart& part = {}) const {
    std::string text;
    absl::Status status = CopyPart(path, part, [&](absl::Span<const uint8_t> piece) {
      if (piece.size() > max_bytes - text.size()) {
        return absl::ResourceExhaustedError("the file is too large");
      }
      text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return text;
  }
};

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_FILE_SYSTEM_H_
