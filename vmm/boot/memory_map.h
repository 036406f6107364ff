#ifndef BULKHEAD_VMM_BOOT_MEMORY_MAP_H_
#define BULKHEAD_VMM_BOOT_MEMORY_MAP_H_

#include <stdint.h>

#include <vector>

#include "base/guest_memory.h"

namespace bulkhead::vmm {

// One range of the guest's memory map. The types are those of e820 (ACPI 6.5, section 15.4), which
// PVH shares.
struct MemoryMapEntry {
  enum Type : uint32_t { kRam = 1, kReserved = 2 };
  GuestAddress start = 0;
  uint64_t size_bytes = 0;
  Type type = kRam;

  bool operator==(const MemoryMapEntry&) const = default;
};

// The memory map, in ascending order and without overlap: RAM that the guest may use, and reserved
// ranges (firmware area with the ACPI tables, ECAM, KVM's own pages).
std::vector<MemoryMapEntry> BuildMemoryMap(const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_MEMORY_MAP_H_
