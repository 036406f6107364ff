#ifndef BULKHEAD_DEVICES_HOST_MAPPED_PAGES_H_
#define BULKHEAD_DEVICES_HOST_MAPPED_PAGES_H_

#include <stdint.h>
#include <sys/uio.h>

#include <vector>

#include "absl/types/span.h"
#include "base/guest_memory.h"

namespace bulkhead::devices {

// Bounds how many pages of guest RAM this process has in its page tables. The kernel takes them out
// one by one when the process dies, before the vmm hears of the death and can attach a successor:
// 32 MiB in 1.0 ms, but 64 MiB in 3.6 and 256 MiB in 12.6, since what it knows of them is no longer
// in the processor's caches. A page that was taken out comes back at the next access, for about a
// microsecond.
// Thread-compatible.
class MappedPages {
 public:
  // What may be mapped at a time.
  static constexpr uint64_t kMaxBytes = 32 << 20;
  // What one access may map: the kernel maps what it has around the page (fault_around_bytes).
  static constexpr uint64_t kWindowBytes = 64 << 10;

  // `memory` outlives this. `are_huge`: its pages are, and need no bound.
  MappedPages(const GuestMemory& memory, bool are_huge);

  // This process, or the kernel for it, uses these parts of guest RAM. Cheap but for once in a
  // while, when it takes pages out: about 1 ms.
  void Used(absl::Span<const iovec> buffers) {
    if (are_huge_) return;
    for (const iovec& buffer : buffers) Use(buffer);
  }

 private:
  void Use(const iovec& buffer);
  void TakeOut();

  const GuestMemory& memory_;
  const bool are_huge_;
  std::vector<std::vector<bool>> used_;  // by range of memory_: its windows, since TakeOut()
  uint64_t used_windows_ = 0;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_MAPPED_PAGES_H_
