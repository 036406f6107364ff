#ifndef BULKHEAD_VMM_MACHINE_BOOT_SOURCES_H_
#define BULKHEAD_VMM_MACHINE_BOOT_SOURCES_H_

#include "absl/status/statusor.h"
#include "vmm/boot/boot.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// Makes BootSources from `spec` and takes its kernel and initrd. Errors: InvalidArgument (a file is
// not regular, empty or not readable), Internal.
absl::StatusOr<BootSources> OpenBootSources(VmSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_BOOT_SOURCES_H_
