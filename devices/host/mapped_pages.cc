#include "devices/host/mapped_pages.h"

#include <sys/mman.h>

namespace bulkhead::devices {

MappedPages::MappedPages(const GuestMemory& memory, bool are_huge)
    : memory_(memory), are_huge_(are_huge) {
  if (are_huge) return;
  for (const GuestMemory::Range& range : memory.ranges()) {
    used_.emplace_back((range.mapping.size() + kWindowBytes - 1) / kWindowBytes);
  }
}

void MappedPages::Use(const iovec& buffer) {
  const uint8_t* const data = static_cast<const uint8_t*>(buffer.iov_base);
  for (size_t i = 0; i < used_.size() && buffer.iov_len != 0; ++i) {
    const MemoryMapping& mapping = memory_.ranges()[i].mapping;
    if (data < mapping.data() || data >= mapping.data() + mapping.size()) continue;
    const uint64_t offset = static_cast<uint64_t>(data - mapping.data());
    const uint64_t last = (offset + buffer.iov_len - 1) / kWindowBytes;
    for (uint64_t window = offset / kWindowBytes; window <= last && window < used_[i].size();
         ++window) {
      if (used_[i][window]) continue;
      used_[i][window] = true;
      ++used_windows_;
    }
    break;
  }
  if (used_windows_ >= kMaxBytes / kWindowBytes) TakeOut();
}

void MappedPages::TakeOut() {
  used_windows_ = 0;
  for (std::vector<bool>& windows : used_) windows.assign(windows.size(), false);
  // The mappings are shared: the file keeps the bytes. Memory in flight is pinned, not mapped.
  for (const GuestMemory::Range& range : memory_.ranges()) {
    madvise(range.mapping.data(), range.mapping.size(), MADV_DONTNEED);
  }
}

}  // namespace bulkhead::devices
