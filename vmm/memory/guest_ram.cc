#include "vmm/memory/guest_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "base/errno_status.h"
#include "base/memory_mapping.h"
#include "base/shared_file.h"
#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kPageSize = 4096;
// KVM maps 2 MiB at once only where the low 21 bits of guest and host addresses are equal.
constexpr uint64_t kHugePageSize = 2 << 20;
// A signal is heard in between.
constexpr uint64_t kPopulatedAtOnce = 64 << 20;
static_assert(layout::kHoleStart % kHugePageSize == 0 && layout::kHoleEnd % kHugePageSize == 0);

}  // namespace

absl::StatusOr<GuestRam> GuestRam::Create(uint64_t size_bytes) {
  if (size_bytes == 0 || size_bytes % kPageSize != 0 || size_bytes > INT64_MAX) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest memory: %d bytes is not a positive multiple of %d", size_bytes, kPageSize));
  }
  ASSIGN_OR_RETURN(UniqueFd memfd, CreateMemfd("guest-ram", size_bytes));
  // Device processes have this descriptor. If one shrank the file, the vmm would die of SIGBUS. If
  // one added a write seal, its successor could not map the file.
  RETURN_IF_ERROR(AddSeals(memfd.get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));

  const uint64_t low_bytes = std::min(size_bytes, layout::kHoleStart);
  std::vector<Block> blocks = {{.start = 0, .size_bytes = low_bytes, .file_offset = 0}};
  if (size_bytes > low_bytes) {
    blocks.push_back({.start = layout::kHoleEnd,
                      .size_bytes = size_bytes - low_bytes,
                      .file_offset = low_bytes});
  }
  std::vector<GuestMemory::Range> ranges;
  for (Block& block : blocks) {
    ASSIGN_OR_RETURN(MemoryMapping mapping,
                     MemoryMapping::Map(memfd.get(), block.file_offset, block.size_bytes,
                                        MemoryMapping::Protection::kReadWrite, kHugePageSize));
    block.host = mapping.data();
    // Keeps the guest's memory, gigabytes that may contain secrets, out of the vmm's core dumps.
    if (madvise(block.host, block.size_bytes, MADV_DONTDUMP) != 0) {
      return ErrnoToStatus(errno, "madvise(MADV_DONTDUMP) of guest memory");
    }
    ranges.push_back({block.start, std::move(mapping)});
  }
  ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::Create(std::move(ranges)));
  return GuestRam(std::move(memfd), std::move(memory), std::move(blocks));
}

absl::Status GuestRam::Populate() const {
  for (const Block& block : blocks_) {
    for (uint64_t done = 0; done < block.size_bytes; done += kPopulatedAtOnce) {
      const uint64_t size = std::min(kPopulatedAtOnce, block.size_bytes - done);
      while (madvise(block.host + done, size, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINTR || errno == EAGAIN) continue;
        return ErrnoToStatus(errno, "taking the guest's memory from the host");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status GuestRam::Clear() const {
  ResetSharedMemfd(memfd_.get());  // which devices share
  // Frees the file's pages and so those of every mapping, also in device processes.
  while (fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                   static_cast<off_t>(size_bytes())) != 0) {
    if (errno != EINTR) return ErrnoToStatus(errno, "clearing guest memory");
  }
  return absl::OkStatus();
}

uint64_t GuestRam::size_bytes() const {
  uint64_t total = 0;
  for (const Block& block : blocks_) total += block.size_bytes;
  return total;
}

}  // namespace bulkhead::vmm
