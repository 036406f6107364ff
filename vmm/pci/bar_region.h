#ifndef BULKHEAD_VMM_PCI_BAR_REGION_H_
#define BULKHEAD_VMM_PCI_BAR_REGION_H_

#include <stdint.h>

#include "vmm/memory/io_handler.h"
#include "vmm/remote_device/device_access.h"

namespace bulkhead::vmm {

// A BAR whose contents live in the device process. Writes are posted, as on PCI ([PCI] 3.2.5).
// Thread-safe, as DeviceAccess is.
class BarRegion final : public IoHandler {
 public:
  // `device` is borrowed and outlives the region.
  BarRegion(DeviceAccess& device, uint8_t bar_index) : device_(device), region_(bar_index) {}

  uint64_t Read(Requester requester, uint64_t offset, uint8_t size_bytes) override {
    return device_.Read(requester, region_, offset, size_bytes);
  }
  void Write(Requester requester, uint64_t offset, uint8_t size_bytes, uint64_t value) override {
    device_.PostWrite(requester, region_, offset, size_bytes, value);
  }

 private:
  DeviceAccess& device_;
  const uint8_t region_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_BAR_REGION_H_
