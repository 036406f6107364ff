#ifndef BULKHEAD_TOOLS_VMCTL_PCI_TEXT_H_
#define BULKHEAD_TOOLS_VMCTL_PCI_TEXT_H_

#include <string>

#include "proto/vm_control.pb.h"

namespace bulkhead::vmctl {

// A device's PCI function as lspci -nn shows it, and then which of the VM's devices it is:
//   00:03.0 SCSI storage controller [0100]: 1af4:1042 (rev 01) disk0, virtio-blk
// `device` has `pci`.
std::string PciLine(const v1::Device& device);

// The lines that lspci -v adds, each after `indent`: subsystem, BARs, interrupts, doorbells.
std::string PciDetails(const v1::Device& device, const std::string& indent);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_PCI_TEXT_H_
