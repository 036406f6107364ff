#ifndef BULKHEAD_VMM_BOOT_LOADER_EXT_FILE_SYSTEM_H_
#define BULKHEAD_VMM_BOOT_LOADER_EXT_FILE_SYSTEM_H_

#include <memory>

#include "absl/status/statusor.h"
#include "vmm/boot_loader/disk.h"
#include "vmm/boot_loader/file_system.h"

namespace bulkhead::boot_loader {

// Opens the ext2, ext3 or ext4 file system on `disk`, which must outlive it, by libext2fs. Its
// journal is not replayed, as with GRUB. Errors: NotFound (it is none), DataLoss (it is damaged, or
// has features that libext2fs does not know).
absl::StatusOr<std::unique_ptr<const FileSystem>> OpenExtFileSystem(const Disk& disk);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_EXT_FILE_SYSTEM_H_
