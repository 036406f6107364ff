#ifndef BULKHEAD_VMM_MACHINE_BOOT_SOURCES_H_
#define BULKHEAD_VMM_MACHINE_BOOT_SOURCES_H_

#include "absl/status/statusor.h"
#include "vmm/boot/boot.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// What the guest boots from: takes kernel and initrd out of `spec`. Errors: InvalidArgument (a
// file is not as it should be), Internal.
absl::StatusOr<BootSources> OpenBootSources(VmSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_BOOT_SOURCES_H_
