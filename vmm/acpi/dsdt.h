#ifndef BULKHEAD_VMM_ACPI_DSDT_H_
#define BULKHEAD_VMM_ACPI_DSDT_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/guest_memory.h"
#include "vmm/acpi/aml.h"

namespace bulkhead::vmm {

// What a description of a legacy device can say.
inline constexpr uint32_t kMaxPortRanges = 6;
inline constexpr uint32_t kMaxPortsOfRange = 255;
inline constexpr uint32_t kLastIsaIrq = 15;
// "PNP0501", or of the form "ABCD0123" (ACPI 6.5, section 6.1.5).
bool IsHardwareId(absl::string_view id);

// A device that the guest finds by ACPI alone: ports and an edge-triggered interrupt.
struct AcpiPlatformDevice {
  struct PortRange {
    uint32_t base = 0;
    uint32_t size = 0;
  };

  std::string name = {};      // the configuration's name for it; becomes _DDN
  std::string acpi_hid = {};  // IsHardwareId()
  std::vector<PortRange> port_ranges = {};
  uint32_t irq = 0;  // global system interrupt 1 to 15; 0: none
};

// Checks what a device process has said of itself. Errors: InvalidArgument, naming the device.
absl::Status ValidatePlatformDevice(const AcpiPlatformDevice& device);

// The definition block's AML: processors, the PCI root with its windows and interrupt routing,
// reserved ranges, the platform devices (valid ones, at most 64), and S5.
aml::Bytes DsdtTerms(uint32_t vcpus, GuestAddress high_window_start,
                     const std::vector<AcpiPlatformDevice>& platform_devices);

inline constexpr uint32_t kMaxPlatformDevices = 64;

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_ACPI_DSDT_H_
