#ifndef BULKHEAD_VMM_MACHINE_DISK_BOOT_H_
#define BULKHEAD_VMM_MACHINE_DISK_BOOT_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "vmm/boot/boot.h"
#include "vmm/config/vm_spec.h"
#include "vmm/process/process_monitor.h"

namespace bulkhead::vmm {

// What was found on a disk.
struct FoundBoot {
  BootSources sources;
  std::string kernel;  // "disk0:(hd0,gpt1)/boot/vmlinuz-6.1.0-28-amd64", printable
  std::string initrd;
  std::string title;  // of the menu's entry
};

// Waits until `fd` is readable, or for a moment. False: give up.
using BootWait = absl::FunctionRef<bool(int fd)>;

// Finds what to boot on the disk of `spec`, by a process of the boot loader (vmm/boot_loader),
// which is dead when this returns. Errors, each for the operator: InvalidArgument (nothing to boot
// was found, with what was looked for; or the process failed), Cancelled (by `wait`),
// ResourceExhausted, and as Launcher::Launch().
absl::StatusOr<FoundBoot> FindBootOnDisk(const DiskBootSpec& spec, ProcessMonitor& monitor,
                                         BootWait wait);

// A BootWait of a caller that has nothing else to wait for.
bool WaitForBootLoader(int fd);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_DISK_BOOT_H_
