#include "base/memory_mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/errno_status.h"

namespace bulkhead {
namespace {

constexpr size_t kPageSize = 4096;

// A memfd has no link, so coredump_filter's default takes its mappings for anonymous memory: a core
// file would hold guest RAM, and take seconds to write.
void ExcludeFromCoreDump(void* data, size_t size_bytes) {
  madvise(data, size_bytes, MADV_DONTDUMP);
}

}  // namespace

absl::StatusOr<MemoryMapping> MemoryMapping::Map(int fd, uint64_t offset, size_t size_bytes,
                                                 Protection protection, size_t alignment_bytes,
                                                 Reserve reserve) {
  const int prot = protection == Protection::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  // NORESERVE: guest RAM may be larger than what is ever touched.
  const int flags = MAP_SHARED | (reserve == Reserve::kNo ? MAP_NORESERVE : 0);
  if (alignment_bytes <= kPageSize) {
    void* data = mmap(nullptr, size_bytes, prot, flags, fd, static_cast<off_t>(offset));
    if (data == MAP_FAILED) return ErrnoToStatus(errno, "mmap");
    ExcludeFromCoreDump(data, size_bytes);
    return MemoryMapping(static_cast<uint8_t*>(data), size_bytes);
  }
  // Reserves enough addresses to hold an aligned place, maps there, and gives the rest back.
  const size_t wanted = (size_bytes + kPageSize - 1) & ~(kPageSize - 1);
  const size_t reserved = wanted + alignment_bytes;
  if (reserved < size_bytes) return ErrnoToStatus(ENOMEM, "mmap");
  void* area =
      mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return ErrnoToStatus(errno, "mmap");
  const uintptr_t start = reinterpret_cast<uintptr_t>(area);
  const uintptr_t aligned = (start + alignment_bytes - 1) & ~(alignment_bytes - 1);
  void* data = mmap(reinterpret_cast<void*>(aligned), size_bytes, prot, flags | MAP_FIXED, fd,
                    static_cast<off_t>(offset));
  if (data == MAP_FAILED) {
    const int error = errno;
    munmap(area, reserved);
    return ErrnoToStatus(error, "mmap");
  }
  if (aligned > start) munmap(area, aligned - start);
  const uintptr_t end = aligned + wanted;
  munmap(reinterpret_cast<void*>(end), start + reserved - end);
  ExcludeFromCoreDump(data, size_bytes);
  return MemoryMapping(static_cast<uint8_t*>(data), size_bytes);
}

MemoryMapping::~MemoryMapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

absl::StatusOr<UniqueFd> CreateMemfd(absl::string_view name, uint64_t size_bytes, unsigned flags) {
  UniqueFd fd(memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  if (!fd.ok()) return ErrnoToStatus(errno, "memfd_create");
  if (ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return ErrnoToStatus(errno, "ftruncate of a memfd");
  }
  return fd;
}

absl::Status AddSeals(int memfd, unsigned seals) {
  if (fcntl(memfd, F_ADD_SEALS, seals) != 0) return ErrnoToStatus(errno, "F_ADD_SEALS");
  return absl::OkStatus();
}

}  // namespace bulkhead
