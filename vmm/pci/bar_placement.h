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
  GuestAddress address = 0;  // the result
};

// Gives every BAR an address, as firmware does: 32-bit BARs in the low window, 64-bit BARs in the
// high one. No two BARs share a page, so that a guest can map each one alone.
// Errors: ResourceExhausted (a window is full), naming the BAR.
absl::Status PlaceBars(const MmioWindows& windows, std::vector<BarRequest>& bars);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_BAR_PLACEMENT_H_
