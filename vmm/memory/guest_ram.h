#ifndef BULKHEAD_VMM_MEMORY_GUEST_RAM_H_
#define BULKHEAD_VMM_MEMORY_GUEST_RAM_H_

#include <stdint.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/guest_memory.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// What the host makes the guest's RAM of.
struct RamBacking {
  enum class HugePages {
    kNone,
    kCollapsed,    // of small pages, which RamCollapse gathers
    kTransparent,  // where the host has them at hand; see shmem_enabled of transparent_hugepage
    k2M,           // of the pool of hugetlbfs, all set aside at the start
    k1G,
  };
  HugePages huge_pages = HugePages::kCollapsed;
  std::optional<uint32_t> numa_node = {};  // of which all pages come; else the kernel chooses

  // Of which the size of RAM must be a multiple.
  uint64_t page_bytes() const;
  bool is_of_hugetlbfs() const {
    return huge_pages == HugePages::k2M || huge_pages == HugePages::k1G;
  }
};

// The guest's RAM: one memory file, mapped here, given to KVM as memory slots and to device
// processes as descriptors. It begins at address 0 and continues at 4 GiB if it does not fit below
// the hole (guest_layout.h).
//
// Immutable after Create(), so thread-safe. Owns the file and the mappings; KVM and devices
// keep their own references.
class GuestRam {
 public:
  // A run of guest-physical addresses that are RAM.
  struct Block {
    GuestAddress start = 0;
    uint64_t size_bytes = 0;
    uint64_t file_offset = 0;  // in memfd()
    // Its low 21 bits equal those of `start` and `file_offset`; with pages of 1 GiB, its low 30.
    uint8_t* host = nullptr;
  };

  // `size_bytes`: a multiple of the page size, not 0. Pages cost host memory once touched, those of
  // hugetlbfs at once. Errors: InvalidArgument (size), ResourceExhausted (address space, huge
  // pages), as mbind(2).
  static absl::StatusOr<GuestRam> Create(uint64_t size_bytes, const RamBacking& backing = {});

  GuestRam(GuestRam&&) = default;
  GuestRam& operator=(GuestRam&&) = default;

  // Takes all of its pages from the host now, so that they are charged to this process's control
  // group, and not to that of the device that touches them first. Errors: as madvise(2).
  absl::Status Populate() const;

  // Zeroes all RAM and frees its pages on the host. No other thread or process may read or write
  // RAM meanwhile. `is_cancelled` is asked every 64 MiB or page. Errors: as fallocate(2);
  // Cancelled, with some of RAM cleared; ResourceExhausted (another one took the huge pages).
  absl::Status Clear(absl::FunctionRef<bool()> is_cancelled = [] { return false; }) const;

  const GuestMemory& memory() const { return memory_; }
  absl::Span<const Block> blocks() const { return blocks_; }
  // Sealed: a process that has the descriptor cannot shrink the file.
  int memfd() const { return memfd_.get(); }
  uint64_t size_bytes() const;
  const RamBacking& backing() const { return backing_; }
  // The first address above all RAM.
  GuestAddress end() const { return blocks_.back().start + blocks_.back().size_bytes; }

 private:
  GuestRam(UniqueFd memfd, const RamBacking& backing, GuestMemory memory, std::vector<Block> blocks)
      : memfd_(std::move(memfd)),
        backing_(backing),
        memory_(std::move(memory)),
        blocks_(std::move(blocks)) {}

  absl::Status SetHugePagesAside() const;

  UniqueFd memfd_;
  RamBacking backing_;
  GuestMemory memory_;
  std::vector<Block> blocks_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MEMORY_GUEST_RAM_H_
