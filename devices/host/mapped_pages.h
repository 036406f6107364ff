#ifndef BULKHEAD_DEVICES_HOST_MAPPED_PAGES_H_
#define BULKHEAD_DEVICES_HOST_MAPPED_PAGES_H_

#include <stdint.h>

#include "base/guest_memory.h"

namespace bulkhead::devices {

// Bounds how many pages of guest RAM this process has in its page tables. The kernel takes them out
// one by one when the process dies, 3 to 4 ms for each GiB, before the vmm hears of the death and
// can attach a successor. A page that was taken out comes back at the next access.
// Thread-compatible.
class MappedPages {
 public:
  // What a process may have used since the last time, counted generously.
  static constexpr uint64_t kMaxBytes = 256 << 20;
  // What a buffer counts at least: its page.
  static constexpr uint64_t kPageBytes = 4096;

  // `memory` outlives this. `are_huge`: its pages are, and need no bound.
  MappedPages(const GuestMemory& memory, bool are_huge) : memory_(memory), are_huge_(are_huge) {}

  // This process, or the kernel for it, has used `bytes` of guest RAM. Cheap but for once in a
  // while: then it takes about 2 ms.
  void Used(uint64_t bytes) {
    used_bytes_ += bytes;
    if (used_bytes_ >= kMaxBytes && !are_huge_) TakeOut();
  }

 private:
  void TakeOut();

  const GuestMemory& memory_;
  const bool are_huge_;
  uint64_t used_bytes_ = 0;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_MAPPED_PAGES_H_
