#include "vmm/pci/function_spec.h"

#include "proto/contract.h"
#include "vmm/device/pci_registers.h"

namespace bulkhead::vmm {
namespace {

// Nullopt if all are used, which a valid description with MSI-X excludes.
std::optional<uint8_t> FreeBar(const DeviceDescription::PciFunction& function) {
  uint32_t used = 0;
  for (const DeviceDescription::Bar& bar : function.bars) {
    used |= (bar.is_64bit ? 3u : 1u) << bar.index;
  }
  for (uint8_t index = 0; index < kMaxBars; ++index) {
    if ((used & 1u << index) == 0) return index;
  }
  return std::nullopt;
}

}  // namespace

FunctionLayout LayOut(const DeviceDescription::PciFunction& function) {
  FunctionLayout layout;
  size_t next = pci::kFirstCapability;
  if (function.msix_vectors != 0) {
    layout.msix_bar = FreeBar(function);
    layout.msix_capability = static_cast<uint16_t>(next);
    next += pci::CapabilitySpace(pci::kMsixCapabilityBytes);
  }
  for (const DeviceDescription::Capability& capability : function.capabilities) {
    layout.device_capabilities.push_back(static_cast<uint16_t>(next));
    next += pci::CapabilitySpace(pci::kCapabilityHeaderBytes + capability.body.size());
  }
  layout.advanced_features = static_cast<uint16_t>(next);
  return layout;
}

}  // namespace bulkhead::vmm
