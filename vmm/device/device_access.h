#ifndef BULKHEAD_VMM_DEVICE_DEVICE_ACCESS_H_
#define BULKHEAD_VMM_DEVICE_DEVICE_ACCESS_H_

#include <stdint.h>

#include "vmm/memory/io_handler.h"

namespace bulkhead::vmm {

// State of a PCI function that the vmm owns and sends to the device.
struct FunctionState {
  bool bus_master = false;
  bool msix_enabled = false;
  bool intx_disabled = false;  // the command register's bit, also while MSI-X is enabled
};

// Guest accesses to one device in another process. Thread-safe. Every call ends within the
// device's access timeout. If the device is gone, reads give all ones and writes are dropped.
class DeviceAccess {
 public:
  virtual ~DeviceAccess() = default;

  // `region` as in proto/contract.h; `size_bytes` 1, 2, 4 or 8, within the region.
  virtual uint64_t Read(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes) = 0;
  // Returns once the device will certainly see the write: PCI memory writes are posted.
  virtual void PostWrite(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                         uint64_t value) = 0;
  // Returns once the device has applied the write: port I/O and configuration writes.
  virtual void WriteAndWait(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                            uint64_t value) = 0;
  // Returns once the device is in its state after power-on.
  virtual void Reset(Waiter waiter) = 0;
  // Returns once the device has applied the new state.
  virtual void SetFunctionState(Waiter waiter, const FunctionState& state) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_DEVICE_DEVICE_ACCESS_H_
