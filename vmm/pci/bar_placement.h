#ifndef BULKHEAD_VMM_PCI_BAR_PLACEMENT_H_
#define BULKHEAD_VMM_PCI_BAR_PLACEMENT_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/guest_memory.h"
#include "vmm/pci/mmio_windows.h"

namespace bulkhead::vmm {

// A BAR that needs an address before the guest starts.
struct BarRequest {
  std::string name;         // for messages
  uint64_t size_bytes = 0;  // a power of two
  bool is_64bit = false;
  GuestAddress address = 0;  // the answer
};

// Does what firmware does: gives every BAR an address, 32-bit ones in the low window and 64-bit
// ones in the high one, none sharing a page with another (a guest may map each by itself).
// Errors: ResourceExhausted (a window is full), naming the BAR.
absl::Status PlaceBars(const MmioWindows& windows, std::vector<BarRequest>& bars);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_BAR_PLACEMENT_H_
