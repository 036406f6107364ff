#include "vmm/memory/guest_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

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
constexpr uint64_t kGiantPageSize = 1 << 30;
// What is done at once in one system call. A signal is heard in between, SIGKILL too.
constexpr uint64_t kBytesAtOnce = 64 << 20;
static_assert(layout::kHoleStart % kGiantPageSize == 0 && layout::kHoleEnd % kGiantPageSize == 0);

using HugePages = RamBacking::HugePages;

unsigned MemfdFlags(HugePages pages) {
  if (pages == HugePages::k2M) return MFD_HUGETLB | MFD_HUGE_2MB;
  if (pages == HugePages::k1G) return MFD_HUGETLB | MFD_HUGE_1GB;
  return 0;
}

absl::Status TooFewHugePages(uint64_t size_bytes, uint64_t page_bytes) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "guest memory: the host (or its NUMA node) has no %d free huge pages of %d MiB; see "
      "/sys/kernel/mm/hugepages/hugepages-%dkB/free_hugepages, and nr_hugepages to have more",
      size_bytes / page_bytes, page_bytes >> 20, page_bytes >> 10));
}

// No library for one call: libnuma ends the process where it cannot read /sys.
absl::Status TakeFromNode(const GuestRam::Block& block, uint32_t node) {
  constexpr uint32_t kBits = 8 * sizeof(unsigned long);
  std::array<unsigned long, 1024 / kBits> nodes = {};
  if (node >= nodes.size() * kBits) {
    return absl::InvalidArgumentError(absl::StrFormat("guest memory: NUMA node %d", node));
  }
  nodes[node / kBits] = 1UL << (node % kBits);
  // The kernel takes one bit less than it is told.
  if (syscall(SYS_mbind, block.host, block.size_bytes, MPOL_BIND, nodes.data(),
              nodes.size() * kBits + 1, 0) != 0) {
    return ErrnoToStatus(errno, absl::StrFormat("guest memory: NUMA node %d: mbind", node));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t RamBacking::page_bytes() const {
  switch (huge_pages) {
    case HugePages::k2M:
      return kHugePageSize;
    case HugePages::k1G:
      return kGiantPageSize;
    case HugePages::kNone:
    case HugePages::kCollapsed:
    case HugePages::kTransparent:  // what they do not fill is made of small ones
      break;
  }
  return kPageSize;
}

absl::StatusOr<GuestRam> GuestRam::Create(uint64_t size_bytes, const RamBacking& backing) {
  const uint64_t page_bytes = backing.page_bytes();
  const bool is_of_hugetlbfs = backing.is_of_hugetlbfs();
  if (size_bytes == 0 || size_bytes % page_bytes != 0 || size_bytes > INT64_MAX) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest memory: %d bytes is not a positive multiple of %d", size_bytes, page_bytes));
  }
  absl::StatusOr<UniqueFd> created =
      CreateMemfd("guest-ram", size_bytes, MemfdFlags(backing.huge_pages));
  if (!created.ok() && is_of_hugetlbfs) {
    return absl::InvalidArgumentError(
        absl::StrFormat("guest memory: this host has no huge pages of %d MiB: %s", page_bytes >> 20,
                        created.status().message()));
  }
  ASSIGN_OR_RETURN(UniqueFd memfd, std::move(created));
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
    absl::StatusOr<MemoryMapping> mapped = MemoryMapping::Map(
        memfd.get(), block.file_offset, block.size_bytes, MemoryMapping::Protection::kReadWrite,
        std::max(kHugePageSize, page_bytes),
        is_of_hugetlbfs ? MemoryMapping::Reserve::kYes : MemoryMapping::Reserve::kNo);
    if (!mapped.ok() && is_of_hugetlbfs) return TooFewHugePages(size_bytes, page_bytes);
    ASSIGN_OR_RETURN(MemoryMapping mapping, std::move(mapped));
    block.host = mapping.data();
    if (backing.huge_pages == HugePages::kTransparent &&
        madvise(block.host, block.size_bytes, MADV_HUGEPAGE) != 0) {
      return ErrnoToStatus(errno, "transparent huge pages of guest memory");
    }
    if (backing.numa_node.has_value()) {
      RETURN_IF_ERROR(TakeFromNode(block, *backing.numa_node));
    }
    // Keeps the guest's memory, gigabytes that may contain secrets, out of the vmm's core dumps.
    if (madvise(block.host, block.size_bytes, MADV_DONTDUMP) != 0) {
      return ErrnoToStatus(errno, "madvise(MADV_DONTDUMP) of guest memory");
    }
    ranges.push_back({block.start, std::move(mapping)});
  }
  ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::Create(std::move(ranges)));
  return GuestRam(std::move(memfd), backing, std::move(memory), std::move(blocks));
}

absl::Status GuestRam::Populate() const {
  for (const Block& block : blocks_) {
    for (uint64_t done = 0; done < block.size_bytes; done += kBytesAtOnce) {
      const uint64_t size = std::min(kBytesAtOnce, block.size_bytes - done);
      while (madvise(block.host + done, size, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINTR || errno == EAGAIN) continue;
        if (backing_.is_of_hugetlbfs()) {
          return TooFewHugePages(size_bytes(), backing_.page_bytes());
        }
        return ErrnoToStatus(errno, "taking the guest's memory from the host");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status GuestRam::Clear(absl::FunctionRef<bool()> is_cancelled) const {
  ResetSharedMemfd(memfd_.get());  // which devices share
  // Frees the file's pages and so those of every mapping, also in device processes.
  const uint64_t at_once = std::max(kBytesAtOnce, backing_.page_bytes());
  for (uint64_t done = 0; done < size_bytes(); done += at_once) {
    if (is_cancelled()) return absl::CancelledError("clearing guest memory was cancelled");
    while (fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     static_cast<off_t>(done),
                     static_cast<off_t>(std::min(at_once, size_bytes() - done))) != 0) {
      if (errno != EINTR) return ErrnoToStatus(errno, "clearing guest memory");
    }
  }
  return backing_.is_of_hugetlbfs() ? SetHugePagesAside() : absl::OkStatus();
}

// The hole has given them back to the pool. A mapping sets them aside for the file, for good.
absl::Status GuestRam::SetHugePagesAside() const {
  const absl::Status mapped =
      MemoryMapping::Map(memfd_.get(), 0, size_bytes(), MemoryMapping::Protection::kReadWrite,
                         backing_.page_bytes(), MemoryMapping::Reserve::kYes)
          .status();
  return mapped.ok() ? mapped : TooFewHugePages(size_bytes(), backing_.page_bytes());
}

uint64_t GuestRam::size_bytes() const {
  uint64_t total = 0;
  for (const Block& block : blocks_) total += block.size_bytes;
  return total;
}

}  // namespace bulkhead::vmm
