#include "devices/host/region_table.h"

namespace bulkhead::devices {

RegionTable::RegionTable(const v1::DeviceInfo& info) {
  if (info.has_pci()) {
    for (const v1::Bar& bar : info.pci().bars()) {
      if (bar.index() < kMaxBars) sizes_[bar.index()] = bar.size_bytes();
    }
    for (int i = 0; i < info.pci().capabilities_size() && i < kMaxCapabilities; ++i) {
      const v1::Capability& capability = info.pci().capabilities(i);
      if (capability.forwarded()) sizes_[kCapabilityRegionBase + i] = capability.body().size();
    }
  } else {
    for (int i = 0; i < info.platform().port_ranges_size() && i < kCapabilityRegionBase; ++i) {
      sizes_[i] = info.platform().port_ranges(i).size();
    }
  }
}

}  // namespace bulkhead::devices
