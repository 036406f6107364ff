#ifndef BULKHEAD_TOOLS_VMCTL_PCI_CLASSES_H_
#define BULKHEAD_TOOLS_VMCTL_PCI_CLASSES_H_

#include <stdint.h>

#include "absl/strings/string_view.h"

namespace bulkhead::vmctl {

// What lspci calls a class and subclass (16 bits): "SCSI storage controller". Of a subclass that
// is not known the class's name; of an unknown class "Unknown class".
absl::string_view PciClassName(uint32_t class_and_subclass);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_PCI_CLASSES_H_
