#include "vmm/pci/bar_placement.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kPage = 4096;

uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

}  // namespace

absl::Status PlaceBars(const MmioWindows& windows, std::vector<BarRequest>& bars) {
  // Largest first: sizes are powers of two, so alignment then wastes no space. BARs of equal size
  // keep their order.
  std::vector<BarRequest*> order;
  for (BarRequest& bar : bars) order.push_back(&bar);
  std::sort(order.begin(), order.end(), [](const BarRequest* a, const BarRequest* b) {
    return a->size_bytes != b->size_bytes ? a->size_bytes > b->size_bytes : a < b;
  });

  GuestAddress next_low = windows.low.start;
  GuestAddress next_high = windows.high.start;
  for (BarRequest* bar : order) {
    const MmioWindows::Window& window = bar->is_64bit ? windows.high : windows.low;
    GuestAddress& next = bar->is_64bit ? next_high : next_low;
    const GuestAddress address = AlignUp(next, std::max(bar->size_bytes, kPage));
    if (!window.Holds(address, bar->size_bytes)) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s (0x%x bytes, %s) does not fit into the PCI memory window at 0x%x", bar->name,
          bar->size_bytes, bar->is_64bit ? "64-bit" : "32-bit", window.start));
    }
    bar->address = address;
    next = AlignUp(address + bar->size_bytes, kPage);
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
