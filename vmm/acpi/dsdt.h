#ifndef BULKHEAD_VMM_ACPI_DSDT_H_
#define BULKHEAD_VMM_ACPI_DSDT_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "base/guest_memory.h"
#include "vmm/acpi/aml.h"
#include "vmm/device/device_description.h"

namespace bulkhead::vmm {

// A device that the guest finds only through ACPI: ports and an edge-triggered interrupt.
struct AcpiPlatformDevice {
  std::string name = {};  // the configuration's name for it; becomes _DDN
  DeviceDescription::PlatformDevice device = {};
};

// The definition block's AML: processors, the PCI root with its windows and interrupt routing,
// reserved ranges, the platform devices (at most 64), and S5.
aml::Bytes DsdtTerms(uint32_t vcpus, GuestAddress high_window_start,
                     const std::vector<AcpiPlatformDevice>& platform_devices);

inline constexpr uint32_t kMaxPlatformDevices = 64;

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_ACPI_DSDT_H_
