#include "devices/host/mapped_pages.h"

#include <sys/mman.h>

namespace bulkhead::devices {

void MappedPages::TakeOut() {
  used_bytes_ = 0;
  // The mappings are shared: the file keeps the bytes. Memory in flight is pinned, not mapped.
  for (const GuestMemory::Range& range : memory_.ranges()) {
    madvise(range.mapping.data(), range.mapping.size(), MADV_DONTNEED);
  }
}

}  // namespace bulkhead::devices
