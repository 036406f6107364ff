#ifndef BULKHEAD_VMM_BOOT_LOADER_BOOT_MENU_H_
#define BULKHEAD_VMM_BOOT_LOADER_BOOT_MENU_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/boot_loader/volume.h"

namespace bulkhead::boot_loader {

// Finds what to boot on these volumes: by GRUB's configuration, entries of the Boot Loader
// Specification or unified kernel images. `wanted`: an entry as GRUB's $default names one ("2",
// "1>0", a title, an id), or a part of a title or id; "": the one that the configuration says, or
// if that boots no Linux, the first that does. Adds to `log` what was looked for and found, a line
// each. Errors: NotFound.
absl::StatusOr<BootPlan> FindBootPlan(absl::Span<const Volume> volumes, absl::string_view wanted,
                                      std::vector<std::string>& log);

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_BOOT_MENU_H_
