#include "vmm/boot/memory_map.h"

#include <algorithm>

#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

std::vector<MemoryMapEntry> BuildMemoryMap(const GuestMemory& memory) {
  std::vector<MemoryMapEntry> map;
  const auto add_ram = [&map](GuestAddress start, GuestAddress end) {
    if (start < end) map.push_back({start, end - start, MemoryMapEntry::kRam});
  };
  for (const GuestMemory::Range& range : memory.ranges()) {
    const GuestAddress end = range.start + range.mapping.size();
    add_ram(range.start, std::min(end, layout::kEbda));
    add_ram(std::max(range.start, layout::kHighMemory), end);
  }
  const auto reserve = [&map](GuestAddress start, GuestAddress end) {
    map.push_back({start, end - start, MemoryMapEntry::kReserved});
  };
  reserve(layout::kEbda, layout::kHighMemory);
  reserve(layout::kEcamStart, layout::kEcamStart + layout::kEcamSize);
  reserve(layout::kIdentityMap, layout::kTss + layout::kTssSize);
  std::sort(map.begin(), map.end(),
            [](const MemoryMapEntry& a, const MemoryMapEntry& b) { return a.start < b.start; });
  return map;
}

}  // namespace bulkhead::vmm
