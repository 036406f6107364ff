#ifndef BULKHEAD_VMM_PLATFORM_DEVICE_PLACES_H_
#define BULKHEAD_VMM_PLATFORM_DEVICE_PLACES_H_

#include <stdint.h>

#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "vmm/config/vm_spec.h"
#include "vmm/device/device_description.h"

namespace bulkhead::vmm {

// Where the configuration wants a device, and what its process says it is.
struct DevicePlace {
  std::string name;
  std::string binary;
  uint32_t pci_slot = 0;                           // 0: any
  const DeviceDescription* description = nullptr;  // borrowed

  // All but the description.
  static DevicePlace Of(const DeviceSpec& spec);
};

// Whether all of them have a place on the buses of the guest. Errors, each one line for the
// operator: InvalidArgument: the configuration wants what cannot be, or two of its devices the same
// ports or IRQ; Internal: a device takes what is never a device's.
absl::Status CheckPlaces(absl::Span<const DevicePlace> places);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PLATFORM_DEVICE_PLACES_H_
