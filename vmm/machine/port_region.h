#ifndef BULKHEAD_VMM_MACHINE_PORT_REGION_H_
#define BULKHEAD_VMM_MACHINE_PORT_REGION_H_

#include <stdint.h>

#include "vmm/memory/io_handler.h"
#include "vmm/remote_device/device_access.h"

namespace bulkhead::vmm {

// One port range of a platform device. Port writes are not posted: the guest's OUT ends once
// the device has seen it. Thread-safe.
class PortRegion final : public IoHandler {
 public:
  // `device` is borrowed.
  PortRegion(DeviceAccess& device, uint8_t region) : device_(device), region_(region) {}

  uint64_t Read(Requester requester, uint64_t offset, uint8_t size_bytes) override {
    return device_.Read(requester, region_, offset, size_bytes);
  }
  void Write(Requester requester, uint64_t offset, uint8_t size_bytes, uint64_t value) override {
    device_.WriteAndWait(requester, region_, offset, size_bytes, value);
  }

 private:
  DeviceAccess& device_;
  const uint8_t region_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_PORT_REGION_H_
