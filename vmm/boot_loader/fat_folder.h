#ifndef BULKHEAD_VMM_BOOT_LOADER_FAT_FOLDER_H_
#define BULKHEAD_VMM_BOOT_LOADER_FAT_FOLDER_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/types/span.h"

namespace bulkhead::boot_loader {

// What a FAT folder names.
struct FatEntry {
  std::string name;  // the long one in UTF-8, if there is one
  bool is_folder = false;
  uint32_t cluster = 0;  // the first; 0: none
  uint32_t bytes = 0;    // of a file
};

// The files and folders of a folder, without "." and ".."; at most `max_entries`.
std::vector<FatEntry> ParseFatFolder(absl::Span<const uint8_t> folder, size_t max_entries);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_FAT_FOLDER_H_
