#ifndef BULKHEAD_VMM_BOOT_LOADER_BLS_ENTRY_H_
#define BULKHEAD_VMM_BOOT_LOADER_BLS_ENTRY_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace bulkhead::boot_loader {

// A file of the Boot Loader Specification, type #1. What it lacks is empty.
struct BlsEntry {
  std::string id;  // the file's name without ".conf"
  std::string title;
  std::string linux;
  std::vector<std::string> initrds;
  std::string options;
};

BlsEntry ParseBlsEntry(absl::string_view id, absl::string_view text);

// Below zero: `a` is older than `b`; zero: they are equal. As RPM compares versions.
int CompareVersions(absl::string_view a, absl::string_view b);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_BLS_ENTRY_H_
