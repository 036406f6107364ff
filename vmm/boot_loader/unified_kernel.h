#ifndef BULKHEAD_VMM_BOOT_LOADER_UNIFIED_KERNEL_H_
#define BULKHEAD_VMM_BOOT_LOADER_UNIFIED_KERNEL_H_

#include "absl/status/statusor.h"
#include "vmm/boot_loader/volume.h"

namespace bulkhead::boot_loader {

// What a unified kernel image boots: a PE file for x86-64 with a kernel, an initrd and a command
// line as sections (UAPI group's specification 5, "Unified Kernel Image"; PE/COFF by Microsoft). Of
// one with several profiles, the first. Its title is that of its os-release, or the file's name.
// Its signature is not checked. Errors: NotFound, in one line: it is none.
absl::StatusOr<BootPlan> ReadUnifiedKernel(const FilePlace& image);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_UNIFIED_KERNEL_H_
