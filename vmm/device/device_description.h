#ifndef BULKHEAD_VMM_DEVICE_DEVICE_DESCRIPTION_H_
#define BULKHEAD_VMM_DEVICE_DEVICE_DESCRIPTION_H_

#include <stddef.h>
#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/device_control.pb.h"

namespace bulkhead::vmm {

// A device process's description of itself (proto/device_control.proto), validated: every limit
// below holds, whatever the process sent. Two descriptions are equal if a guest cannot distinguish
// the devices and each can resume from the state of the other. A successor's description must equal
// its predecessor's.
struct DeviceDescription {
  struct Bar {
    uint8_t index = 0;        // 0 to 5, unique; a 64-bit BAR has the next one too
    uint64_t size_bytes = 0;  // a power of two, 16 bytes to 1 GiB
    bool is_64bit = false;
    bool prefetchable = false;
    bool operator==(const Bar&) const = default;
  };
  struct Capability {
    uint8_t id = 0;
    std::vector<uint8_t> body;  // without ID and next pointer
    bool forwarded = false;
    bool operator==(const Capability&) const = default;
  };
  struct PciFunction {
    uint16_t vendor_id = 0;
    uint16_t device_id = 0;
    uint32_t class_code = 0;  // 24 bits
    uint8_t revision_id = 0;
    uint16_t subsystem_vendor_id = 0;
    uint16_t subsystem_id = 0;
    std::vector<Bar> bars;      // by index; with MSI-X, one index is left free
    uint16_t msix_vectors = 0;  // 0 to 2048
    bool has_intx = false;
    // They fit into configuration space together with those that the vmm adds: MSI-X and Advanced
    // Features.
    std::vector<Capability> capabilities;
    bool operator==(const PciFunction&) const = default;
  };
  struct PortRange {
    uint16_t base = 0;
    uint16_t size = 0;  // not 0; ends at 0xffff at most
    bool operator==(const PortRange&) const = default;
  };
  struct PlatformDevice {
    std::string acpi_hid;                // "PNP0501" or "ACPI0007"
    std::vector<PortRange> port_ranges;  // 1 to 6, of up to 255 ports, disjoint
    uint8_t irq = 0;                     // 1 to 15, not 9; 0: none
    bool operator==(const PlatformDevice&) const = default;
  };
  struct Doorbell {
    uint8_t region = 0;  // a BAR or port range that exists
    uint64_t offset = 0;
    uint8_t size_bytes = 0;  // 0, 1, 2, 4, 8; within the region, disjoint from other doorbells
    bool operator==(const Doorbell&) const = default;
  };

  bool operator==(const DeviceDescription&) const = default;

  // True if the device has an interrupt line: INTA# or the platform device's.
  bool has_line() const;

  std::string model;
  // Exactly one of the two.
  std::optional<PciFunction> pci;
  std::optional<PlatformDevice> platform;
  bool uses_dma = false;           // its process gets guest memory
  bool lends_descriptors = false;  // its process may give guest memory to others
  std::vector<Doorbell> doorbells;
  std::vector<std::string> required_resources;
  // Sizes of the state that outlives a process (proto/durable_layout.h).
  uint32_t saved_state_bytes = 0;     // at most kMaxSavedStateBytes
  uint64_t durable_memory_bytes = 0;  // at most kMaxDurableMemoryBytes
  uint32_t state_version = 0;
};

// Names the first difference of `a` and `b`, for people: "BARs". Empty if they are equal.
std::string Difference(const DeviceDescription& a, const DeviceDescription& b);

// Errors: InvalidArgument, naming field and value.
absl::StatusOr<DeviceDescription> ValidateDeviceInfo(const v1::DeviceInfo& info);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_DEVICE_DEVICE_DESCRIPTION_H_
