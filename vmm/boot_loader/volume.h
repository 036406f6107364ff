#ifndef BULKHEAD_VMM_BOOT_LOADER_VOLUME_H_
#define BULKHEAD_VMM_BOOT_LOADER_VOLUME_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "vmm/boot_loader/file_system.h"

namespace bulkhead::boot_loader {

// A partition with a file system that can be read.
struct Volume {
  uint32_t partition = 0;  // 0: the whole disk
  std::string device;      // as GRUB calls it: "hd0,gpt2"
  std::unique_ptr<const FileSystem> files;
};

struct FilePlace {
  const Volume* volume = nullptr;
  std::string path;
  FilePart part;  // whole, unless it is a section of a unified kernel image
};

// What boots a Linux.
struct BootPlan {
  std::string title;
  FilePlace kernel;
  std::vector<FilePlace> initrds;
  std::string command_line;
};

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_VOLUME_H_
