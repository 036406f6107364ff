#include "vmm/pci/forwarded_capabilities.h"

#include "base/access_mask.h"
#include "proto/contract.h"

namespace bulkhead::vmm {

ForwardedCapabilities::ForwardedCapabilities(const DeviceDescription::PciFunction& function,
                                             const FunctionLayout& layout) {
  for (size_t i = 0; i < function.capabilities.size(); ++i) {
    const DeviceDescription::Capability& capability = function.capabilities[i];
    if (!capability.forwarded) continue;
    const size_t body = layout.device_capabilities[i] + pci::kCapabilityHeaderBytes;
    for (size_t j = 0; j < capability.body.size(); ++j) {
      places_[body + j] = {.region = static_cast<uint8_t>(kCapabilityRegionBase + i),
                           .offset = static_cast<uint8_t>(j)};
    }
  }
}

uint8_t ForwardedCapabilities::AccessSize(uint16_t offset, uint8_t limit) const {
  if (offset >= places_.size() || places_[offset].region == kNotForwarded) return 0;
  uint8_t size = 1;
  while (2 * size <= limit && offset % (2 * size) == 0 &&
         places_[offset + 2 * size - 1].region == places_[offset].region) {
    size *= 2;
  }
  return size;
}

uint32_t ForwardedCapabilities::Read(DeviceAccess& device, Waiter waiter, uint16_t offset,
                                     uint8_t size_bytes, uint32_t value) const {
  for (uint8_t done = 0; done < size_bytes;) {
    const uint16_t at = offset + done;
    const uint8_t size = AccessSize(at, size_bytes - done);
    if (size == 0) {
      ++done;
      continue;
    }
    const uint32_t bits =
        static_cast<uint32_t>(device.Read(waiter, places_[at].region, places_[at].offset, size));
    const uint32_t mask = static_cast<uint32_t>(AccessMask(size));
    value = (value & ~(mask << (8 * done))) | (bits & mask) << (8 * done);
    done += size;
  }
  return value;
}

void ForwardedCapabilities::Write(DeviceAccess& device, Waiter waiter, uint16_t offset,
                                  uint8_t size_bytes, uint32_t value) const {
  for (uint8_t done = 0; done < size_bytes;) {
    const uint16_t at = offset + done;
    const uint8_t size = AccessSize(at, size_bytes - done);
    if (size == 0) {
      ++done;
      continue;
    }
    device.WriteAndWait(waiter, places_[at].region, places_[at].offset, size,
                        (value >> (8 * done)) & AccessMask(size));
    done += size;
  }
}

}  // namespace bulkhead::vmm
