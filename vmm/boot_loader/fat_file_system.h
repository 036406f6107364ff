#ifndef BULKHEAD_VMM_BOOT_LOADER_FAT_FILE_SYSTEM_H_
#define BULKHEAD_VMM_BOOT_LOADER_FAT_FILE_SYSTEM_H_

#include <memory>

#include "absl/status/statusor.h"
#include "vmm/boot_loader/disk.h"
#include "vmm/boot_loader/file_system.h"

namespace bulkhead::boot_loader {

// Opens a FAT12, FAT16 or FAT32 file system with long names, as EFI system partitions have
// (Microsoft's FAT32 File System Specification, 1.03; UEFI 2.10, 13.3). Cases of ASCII letters in
// paths do not matter. `disk` must outlive the result. Errors: NotFound (it is none), DataLoss (it
// is damaged).
absl::StatusOr<std::unique_ptr<const FileSystem>> OpenFatFileSystem(const Disk& disk);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_FAT_FILE_SYSTEM_H_
