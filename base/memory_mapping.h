#ifndef BULKHEAD_BASE_MEMORY_MAPPING_H_
#define BULKHEAD_BASE_MEMORY_MAPPING_H_

#include <stddef.h>
#include <stdint.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace bulkhead {

// A shared mapping of a file. Core files do not contain it. Movable. Thread-compatible.
class MemoryMapping {
 public:
  enum class Protection { kRead, kReadWrite };

  enum class Reserve {
    kNo,   // if the host has no huge page left for the file, an access raises SIGBUS
    kYes,  // mmap(2) reserves the file's huge pages, or fails; later mappings use them
  };

  // Maps `size_bytes` of `fd` from `offset` (a multiple of the page size). The address is a
  // multiple of the page size and of `alignment_bytes`, a power of two. The mapping outlives the
  // descriptor. Errors: as mmap(2).
  static absl::StatusOr<MemoryMapping> Map(int fd, uint64_t offset, size_t size_bytes,
                                           Protection protection, size_t alignment_bytes = 1,
                                           Reserve reserve = Reserve::kNo);

  MemoryMapping() = default;
  MemoryMapping(MemoryMapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MemoryMapping& operator=(MemoryMapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MemoryMapping();

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  MemoryMapping(uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// A new anonymous memory file of `size_bytes`, zeroed, close-on-exec, sealable.
// `name` shows in /proc/PID/maps. `flags`: further ones of memfd_create(2). Errors: as
// memfd_create(2) and ftruncate(2).
absl::StatusOr<UniqueFd> CreateMemfd(absl::string_view name, uint64_t size_bytes,
                                     unsigned flags = 0);

// Adds `seals` (F_SEAL_*) to a memory file.
absl::Status AddSeals(int memfd, unsigned seals);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_MEMORY_MAPPING_H_
