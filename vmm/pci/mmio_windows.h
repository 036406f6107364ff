#ifndef BULKHEAD_VMM_PCI_MMIO_WINDOWS_H_
#define BULKHEAD_VMM_PCI_MMIO_WINDOWS_H_

#include <stdint.h>

#include "base/guest_memory.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

// The guest-physical ranges that the host bridge forwards to bus 0, and that ACPI's _CRS names.
// They contain only BARs.
struct MmioWindows {
  struct Window {
    GuestAddress start = 0;
    uint64_t size_bytes = 0;

    bool Holds(GuestAddress address, uint64_t bytes) const {
      return address >= start && bytes <= size_bytes && address - start <= size_bytes - bytes;
    }
  };

  // `high_start`: the start of the window above RAM (vmm/memory/guest_layout.h).
  static MmioWindows ForHighStart(GuestAddress high_start) {
    return {.low = {layout::kMmio32Start, layout::kMmio32End - layout::kMmio32Start},
            .high = {high_start, layout::kMmio64Size}};
  }

  bool Holds(GuestAddress address, uint64_t bytes) const {
    return low.Holds(address, bytes) || high.Holds(address, bytes);
  }

  Window low;   // below 4 GiB: 32-bit BARs
  Window high;  // above RAM: 64-bit BARs
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_MMIO_WINDOWS_H_
