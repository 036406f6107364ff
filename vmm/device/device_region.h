#ifndef BULKHEAD_VMM_DEVICE_DEVICE_REGION_H_
#define BULKHEAD_VMM_DEVICE_DEVICE_REGION_H_

#include <stdint.h>

#include "vmm/device/device_access.h"
#include "vmm/memory/io_handler.h"

namespace bulkhead::vmm {

// A BAR or port range that the device process implements. Thread-safe, as DeviceAccess is.
class DeviceRegion final : public IoHandler {
 public:
  enum class Writes {
    kPosted,     // as to PCI memory ([PCI] 3.2.5)
    kNonPosted,  // the guest's instruction (OUT) completes once the device has applied the write
  };

  // `device` is borrowed and outlives the region. `index`: as in proto/contract.h.
  DeviceRegion(DeviceAccess& device, uint8_t index, Writes writes)
      : device_(device), index_(index), writes_(writes) {}

  uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) override {
    return device_.Read(waiter, index_, offset, size_bytes);
  }
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override {
    if (writes_ == Writes::kPosted) {
      device_.PostWrite(waiter, index_, offset, size_bytes, value);
    } else {
      device_.WriteAndWait(waiter, index_, offset, size_bytes, value);
    }
  }

 private:
  DeviceAccess& device_;
  const uint8_t index_;
  const Writes writes_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_DEVICE_DEVICE_REGION_H_
