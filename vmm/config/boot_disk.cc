#include "vmm/config/boot_disk.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {

absl::StatusOr<std::optional<DiskBootSpec>> ChooseBootDisk(const v1::Kernel& kernel,
                                                           const VmSpec& spec) {
  DiskBootSpec boot;
  boot.entry = kernel.boot_entry();
  boot.cmdline = kernel.cmdline();
  boot.cmdline_append = kernel.cmdline_append();
  boot.memory_bytes = spec.memory_bytes;
  for (const DeviceSpec& device : spec.devices) {
    for (const ResourceSpec& resource : device.resources) {
      boot.has_console |= resource.is_console;
      // Its disk comes first in the guest, too: another one's Linux is not what is meant.
      if (resource.back_end != nullptr && !boot.disk.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("missing; the first disk is '", device.name,
                         "', whose image another program reads: give a kernel with --kernel, or a "
                         "raw disk before it"));
      }
      if (resource.file == nullptr || boot.disk.ok()) continue;
      ASSIGN_OR_RETURN(boot.disk, resource.file->OpenForReading());
      boot.device = device.name;
      boot.path = resource.file->path();
    }
  }
  if (!boot.disk.ok()) return std::nullopt;
  return boot;
}

}  // namespace bulkhead::vmm
