#ifndef BULKHEAD_VMM_PCI_FUNCTION_SPEC_H_
#define BULKHEAD_VMM_PCI_FUNCTION_SPEC_H_

#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "vmm/device/device_description.h"

namespace bulkhead::vmm {

// A device in another process as a function of the PCI bus: its validated description and its
// eventfds. Descriptors are borrowed: they must stay open for as long as the function exists.
struct FunctionSpec {
  struct Intx {
    int event_fd = -1;
    int resample_fd = -1;
  };

  std::string name;  // for messages: "disk0"
  DeviceDescription::PciFunction function;
  std::vector<DeviceDescription::Doorbell> doorbells;

  std::vector<int> msix_event_fds;      // by vector
  std::optional<Intx> intx;             // if the function has it
  std::vector<int> doorbell_event_fds;  // by doorbell
};

// The offsets and the BAR that the vmm chooses for a function.
struct FunctionLayout {
  std::optional<uint8_t> msix_bar;            // the lowest BAR index that the device leaves free
  uint16_t msix_capability = 0;               // offset; 0: none
  std::vector<uint16_t> device_capabilities;  // offsets, in the order of `capabilities`
  uint16_t advanced_features = 0;             // offset: function-level reset, after all others
};

// Packs the capabilities from 0x40 on ([PCI] 6.7). Those of a valid description fit.
FunctionLayout LayOut(const DeviceDescription::PciFunction& function);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_FUNCTION_SPEC_H_
