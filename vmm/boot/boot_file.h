#ifndef BULKHEAD_VMM_BOOT_BOOT_FILE_H_
#define BULKHEAD_VMM_BOOT_BOOT_FILE_H_

#include <stdint.h>

#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// An open, regular file of the user that is loaded into guest memory. Its contents are not trusted:
// every read is checked against its size. Errors name the configuration field and the path, so that
// each is complete as the only line that the user sees. Thread-compatible.
class BootFile {
 public:
  // `field` is the configuration's name of the file ("kernel.path"); it and `path` are for
  // messages. Errors: InvalidArgument (not a regular file, or empty), or as fstat(2).
  static absl::StatusOr<BootFile> FromFd(UniqueFd fd, absl::string_view field,
                                         absl::string_view path);

  uint64_t size() const { return size_; }

  // Reads exactly out.size() bytes from `offset`.
  // Errors: InvalidArgument (the file is too short), or as pread(2).
  absl::Status ReadAt(uint64_t offset, absl::Span<uint8_t> out) const;
  template <typename T>
  absl::Status ReadObjectAt(uint64_t offset, T& out) const {
    static_assert(std::is_trivially_copyable_v<T>);
    return ReadAt(offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(&out), sizeof(T)));
  }

  // True if [offset, offset + size_bytes) lies in the file.
  bool Contains(uint64_t offset, uint64_t size_bytes) const {
    return offset <= size_ && size_bytes <= size_ - offset;
  }

  // An InvalidArgument error about this file: `kernel.path: "/boot/x": <text>`.
  absl::Status Error(absl::string_view text) const;

 private:
  BootFile(UniqueFd fd, std::string name, uint64_t size)
      : fd_(std::move(fd)), name_(std::move(name)), size_(size) {}

  UniqueFd fd_;
  std::string name_;  // kernel.path: "/boot/x"
  uint64_t size_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_BOOT_FILE_H_
