#ifndef BULKHEAD_VMM_CONFIG_BOOT_DISK_H_
#define BULKHEAD_VMM_CONFIG_BOOT_DISK_H_

#include <optional>

#include "absl/status/statusor.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// How a VM boots from its disk, the first device with a file; without the boot loader's program.
// None: it has no disk. Errors: InvalidArgument (a disk that a back end reads comes first), as
// HostFile::OpenForReading().
absl::StatusOr<std::optional<DiskBootSpec>> ChooseBootDisk(const v1::Kernel& kernel,
                                                           const VmSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_BOOT_DISK_H_
