#ifndef BULKHEAD_VMM_MACHINE_PCI_WIRING_H_
#define BULKHEAD_VMM_MACHINE_PCI_WIRING_H_

#include "absl/strings/string_view.h"
#include "vmm/pci/function_config.h"
#include "vmm/remote_device/device_description.h"
#include "vmm/remote_device/device_endpoints.h"

namespace bulkhead::vmm {

// How the PCI code is told of a device in another process: what it said it is, and the eventfds
// that the vmm holds for it. `description` is that of a PCI device. The descriptors stay those of
// `endpoints`.
PciFunctionConfig MakeFunctionConfig(absl::string_view name, const DeviceDescription& description,
                                     const DeviceEndpoints& endpoints);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_PCI_WIRING_H_
