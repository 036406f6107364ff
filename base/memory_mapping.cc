#include "base/memory_mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/errno_status.h"

namespace bulkhead {

absl::StatusOr<MemoryMapping> MemoryMapping::Map(int fd, uint64_t offset, size_t size_bytes,
                                                 Protection protection) {
  const int prot = protection == Protection::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  // NORESERVE: guest RAM may be larger than what is ever touched.
  void* data =
      mmap(nullptr, size_bytes, prot, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) return ErrnoToStatus(errno, "mmap");
  return MemoryMapping(static_cast<uint8_t*>(data), size_bytes);
}

MemoryMapping::~MemoryMapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

absl::StatusOr<UniqueFd> CreateMemfd(absl::string_view name, uint64_t size_bytes) {
  UniqueFd fd(memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
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
