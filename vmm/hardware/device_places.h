#ifndef BULKHEAD_VMM_HARDWARE_DEVICE_PLACES_H_
#define BULKHEAD_VMM_HARDWARE_DEVICE_PLACES_H_

#include <stdint.h>

#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "vmm/config/vm_spec.h"
#include "vmm/device/device_description.h"

namespace bulkhead::vmm {

// The slot that the configuration requests for a device, and the device's description.
struct DevicePlace {
  std::string name;
  std::string binary;
  uint32_t pci_slot = 0;                           // 0: any
  const DeviceDescription* description = nullptr;  // borrowed

  // Without the description.
  static DevicePlace Of(const DeviceSpec& spec);
};

// Checks that the guest's buses have a place for every device. Errors, each one line for the
// operator: InvalidArgument (the configuration gives a PCI slot to a platform device, or two
// devices have the same ports or IRQ), Internal (a device uses ports of the vmm).
absl::Status CheckPlaces(absl::Span<const DevicePlace> places);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_HARDWARE_DEVICE_PLACES_H_
