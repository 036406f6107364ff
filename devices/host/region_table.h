#ifndef BULKHEAD_DEVICES_HOST_REGION_TABLE_H_
#define BULKHEAD_DEVICES_HOST_REGION_TABLE_H_

#include <stdint.h>

#include <array>

#include "proto/contract.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// The sizes of a device's channel regions (proto/contract.h): what a guest access is checked
// against before the model sees it. Immutable, so thread-safe.
class RegionTable {
 public:
  explicit RegionTable(const v1::DeviceInfo& info);

  // True if `size_bytes` is 1, 2, 4 or 8 and the access lies within the region.
  bool Contains(uint8_t region, uint64_t offset, uint8_t size_bytes) const {
    if (region >= sizes_.size()) return false;
    if (size_bytes == 0 || size_bytes > 8 || (size_bytes & (size_bytes - 1)) != 0) return false;
    const uint64_t size = sizes_[region];
    return size_bytes <= size && offset <= size - size_bytes;
  }

 private:
  std::array<uint64_t, kCapabilityRegionBase + kMaxCapabilities> sizes_ = {};
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_REGION_TABLE_H_
