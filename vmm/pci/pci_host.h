#ifndef BULKHEAD_VMM_PCI_PCI_HOST_H_
#define BULKHEAD_VMM_PCI_PCI_HOST_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "vmm/device/device_access.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/pci/bar_decoder.h"
#include "vmm/pci/config_mechanisms.h"
#include "vmm/pci/device_function.h"
#include "vmm/pci/function_spec.h"
#include "vmm/pci/host_bridge.h"
#include "vmm/pci/mmio_windows.h"
#include "vmm/pci/pci_bus.h"

namespace bulkhead::vmm {

// The machine's PCI: bus 0 behind a host bridge, with both configuration mechanisms and the
// functions. Contains no device model.
//
// Set-up is single-threaded and ends before the vCPUs run: Create(), AddFunction() for each
// device, PlaceBars(). Afterwards it is thread-safe. Destroy it after the vCPUs have ended.
class PciHost {
 public:
  // Inserts ECAM into `memory` and ports 0xcf8 to 0xcff into `ports`. All are borrowed and must
  // outlive the host. Errors: those of AddressSpace::Insert.
  static absl::StatusOr<std::unique_ptr<PciHost>> Create(AddressSpace& memory, AddressSpace& ports,
                                                         EventRouting& routing,
                                                         const MmioWindows& windows);
  ~PciHost();

  // The host owns the function; `device` is borrowed and must outlive it. `slot`: 1 to 31.
  // Errors: InvalidArgument (slot), AlreadyExists (the slot is in use), those of EventRouting.
  absl::StatusOr<DeviceFunction*> AddFunction(uint32_t slot, const FunctionSpec& spec,
                                              DeviceAccess& device);

  // Gives every BAR an address. Memory decoding is off until the guest enables it, as after a
  // reset; Linux and the bare-metal programs do.
  // Errors: Internal (a device's BARs do not fit even alone) or InvalidArgument (the devices' BARs
  // do not fit together), naming the BAR.
  absl::Status PlaceBars();

  // Distributes devices over slots 1 to 31. `requested` has one entry for each device, 0 for "any".
  // Errors: InvalidArgument (no such slot), AlreadyExists (requested twice), ResourceExhausted (too
  // many).
  static absl::StatusOr<std::vector<uint32_t>> ChooseSlots(absl::Span<const uint32_t> requested);

 private:
  PciHost(AddressSpace& memory, AddressSpace& ports, EventRouting& routing,
          const MmioWindows& windows);

  AddressSpace& memory_;
  AddressSpace& ports_;
  EventRouting& routing_;
  const MmioWindows windows_;
  BarDecoder decoder_;
  HostBridge host_bridge_;
  PciBus bus_;
  ConfigPorts config_ports_;
  Ecam ecam_;
  bool ecam_reachable_ = false;
  bool ports_reachable_ = false;
  std::vector<std::unique_ptr<DeviceFunction>> functions_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_PCI_HOST_H_
