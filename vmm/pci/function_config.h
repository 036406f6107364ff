#ifndef BULKHEAD_VMM_PCI_FUNCTION_CONFIG_H_
#define BULKHEAD_VMM_PCI_FUNCTION_CONFIG_H_

#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace bulkhead::vmm {

// What a device in another process looks like on the PCI bus. Descriptors are borrowed: they
// must stay open for as long as the function exists.
struct PciFunctionConfig {
  struct Bar {
    uint8_t index = 0;        // 0 to 5; a 64-bit BAR takes this one and the next
    uint64_t size_bytes = 0;  // a power of two, 16 bytes to 1 GiB
    bool is_64bit = false;
    bool prefetchable = false;
  };
  struct Intx {
    int event_fd = -1;
    int resample_fd = -1;
  };
  struct Capability {
    uint8_t id = 0;  // not MSI, MSI-X or Advanced Features
    // Without ID and next pointer: 2 to 252 bytes. What the guest reads if not forwarded.
    std::vector<uint8_t> body;
    bool forwarded = false;
  };
  struct Doorbell {
    uint8_t bar = 0;
    uint64_t offset = 0;
    uint32_t size_bytes = 0;  // 1, 2, 4, 8, or 0: any width
    int event_fd = -1;
  };

  std::string name;  // for messages: "disk0"
  uint16_t vendor_id = 0;
  uint16_t device_id = 0;
  uint32_t class_code = 0;  // 24 bits: class, subclass, programming interface
  uint8_t revision_id = 0;
  uint16_t subsystem_vendor_id = 0;
  uint16_t subsystem_id = 0;
  std::vector<Bar> bars;
  std::vector<int> msix_event_fds;  // one a vector; empty: no MSI-X
  std::optional<Intx> intx;
  std::vector<Capability> capabilities;  // in the order of the list, behind MSI-X
  std::vector<Doorbell> doorbells;
};

// Places that the vmm chooses in a function's configuration space.
struct PciFunctionLayout {
  std::optional<uint8_t> msix_bar;            // the lowest BAR index that the device leaves free
  uint16_t msix_capability = 0;               // offset; 0: none
  std::vector<uint16_t> device_capabilities;  // offsets, in the order of `capabilities`
  uint16_t advanced_features = 0;             // offset: function-level reset, behind all others
};

// Checks everything that the PCI code relies on, so that a device process cannot describe itself
// into trouble, and packs the capabilities from 0x40 on ([PCI] 6.7: dword-aligned).
// Errors: InvalidArgument, naming the device and the field.
absl::StatusOr<PciFunctionLayout> CheckAndLayOut(const PciFunctionConfig& config);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_FUNCTION_CONFIG_H_
