#ifndef BULKHEAD_VMM_BOOT_LOADER_VOLUMES_H_
#define BULKHEAD_VMM_BOOT_LOADER_VOLUMES_H_

#include <memory>
#include <string>
#include <vector>

#include "vmm/boot_loader/disk.h"
#include "vmm/boot_loader/volume.h"

namespace bulkhead::boot_loader {

// The file systems of a disk.
struct Volumes {
  std::vector<std::unique_ptr<Disk>> parts;  // on which those of `readable` are
  std::vector<Volume> readable;
};

// Opens each ext2, ext3, ext4 and FAT file system: in partitions, or on the whole disk. Adds to
// `log` what was found, a line each. `disk` must outlive the result.
Volumes OpenVolumes(const Disk& disk, std::vector<std::string>& log);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_VOLUMES_H_
