#ifndef BULKHEAD_VMM_BOOT_BOOT_INFORMATION_H_
#define BULKHEAD_VMM_BOOT_BOOT_INFORMATION_H_

#include <stdint.h>

#include "absl/status/status.h"
#include "base/guest_memory.h"
#include "vmm/boot/kernel_loader.h"

namespace bulkhead::vmm {

// Addresses in the boot information.
struct BootPlacement {
  GuestAddress command_line = 0;  // zero-terminated
  GuestAddress initrd = 0;
  uint64_t initrd_bytes = 0;  // 0: none
  GuestAddress rsdp = 0;
};

// Writes PVH's start info, module list and memory map, at layout::kPvhStartInfo and above.
// Errors: Internal (no RAM there).
absl::Status WritePvhStartInfo(const BootPlacement& placement, const GuestMemory& memory);

// Writes Linux's zero page (boot_params) at layout::kZeroPage.
// Errors: Internal (no RAM there).
absl::Status WriteZeroPage(const LoadedKernel& kernel, const BootPlacement& placement,
                           const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_BOOT_INFORMATION_H_
