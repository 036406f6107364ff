#include "vmm/machine/pci_wiring.h"

#include <string>

namespace bulkhead::vmm {

PciFunctionConfig MakeFunctionConfig(absl::string_view name, const DeviceDescription& description,
                                     const DeviceEndpoints& endpoints) {
  const DeviceDescription::PciFunction& function = *description.pci;
  PciFunctionConfig config;
  config.name = std::string(name);
  config.vendor_id = function.vendor_id;
  config.device_id = function.device_id;
  config.class_code = function.class_code;
  config.revision_id = function.revision_id;
  config.subsystem_vendor_id = function.subsystem_vendor_id;
  config.subsystem_id = function.subsystem_id;
  for (const DeviceDescription::Bar& bar : function.bars) {
    config.bars.push_back({.index = bar.index,
                           .size_bytes = bar.size_bytes,
                           .is_64bit = bar.is_64bit,
                           .prefetchable = bar.prefetchable});
  }
  for (const EventFd& vector : endpoints.msix_vectors()) {
    config.msix_event_fds.push_back(vector.fd());
  }
  if (function.has_intx) {
    config.intx = PciFunctionConfig::Intx{.event_fd = endpoints.intx_fd(),
                                          .resample_fd = endpoints.intx_resample_fd()};
  }
  for (const DeviceDescription::Capability& capability : function.capabilities) {
    config.capabilities.push_back(
        {.id = capability.id, .body = capability.body, .forwarded = capability.forwarded});
  }
  for (size_t i = 0; i < description.doorbells.size(); ++i) {
    const DeviceDescription::Doorbell& doorbell = description.doorbells[i];
    config.doorbells.push_back({.bar = doorbell.region,
                                .offset = doorbell.offset,
                                .size_bytes = doorbell.size_bytes,
                                .event_fd = endpoints.doorbells()[i].fd()});
  }
  return config;
}

}  // namespace bulkhead::vmm
