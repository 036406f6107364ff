#ifndef BULKHEAD_VMM_PCI_FORWARDED_CAPABILITIES_H_
#define BULKHEAD_VMM_PCI_FORWARDED_CAPABILITIES_H_

#include <stdint.h>

#include <array>

#include "vmm/device/device_access.h"
#include "vmm/device/device_description.h"
#include "vmm/device/pci_registers.h"
#include "vmm/pci/function_spec.h"

namespace bulkhead::vmm {

// The bytes of a configuration space that the device process serves: the bodies of its forwarded
// capabilities, each a channel region (proto/contract.h). virtio needs one for
// VIRTIO_PCI_CAP_PCI_CFG (virtio 1.2, 4.1.4.9). Immutable, so thread-safe.
class ForwardedCapabilities {
 public:
  ForwardedCapabilities(const DeviceDescription::PciFunction& function,
                        const FunctionLayout& layout);

  // Replaces the device's bytes in `value`, which was read at `offset` within one dword.
  uint32_t Read(DeviceAccess& device, Waiter waiter, uint16_t offset, uint8_t size_bytes,
                uint32_t value) const;
  // Sends the device its bytes of `value`. Returns once it has applied them.
  void Write(DeviceAccess& device, Waiter waiter, uint16_t offset, uint8_t size_bytes,
             uint32_t value) const;

 private:
  static constexpr uint8_t kNotForwarded = 0xff;

  struct Place {
    uint8_t region = kNotForwarded;
    uint8_t offset = 0;
  };

  // The number of bytes from `offset` on, at most `limit`, that fit into one access to the device:
  // 1, 2 or 4, aligned in the configuration space, in one region. 0: the first is not forwarded.
  uint8_t AccessSize(uint16_t offset, uint8_t limit) const;

  std::array<Place, pci::kConventionalConfigBytes> places_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_FORWARDED_CAPABILITIES_H_
