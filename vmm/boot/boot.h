#ifndef BULKHEAD_VMM_BOOT_BOOT_H_
#define BULKHEAD_VMM_BOOT_BOOT_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/guest_memory.h"
#include "vmm/boot/boot_file.h"
#include "vmm/hypervisor/initial_cpu_state.h"

namespace bulkhead::vmm {

// The user's kernel, initrd and command line.
struct BootSources {
  BootFile kernel;
  std::optional<BootFile> initrd = std::nullopt;
  std::string command_line = {};  // at most layout::kCommandLineMaxBytes - 1 bytes
};

// Writes kernel, initrd, command line and the boot information of the kernel's entry protocol
// to `memory`, and returns the initial state of the first vCPU. `memory` must be all zeroes
// except for the ACPI tables, whose RSDP is at `rsdp`.
//
// Errors: InvalidArgument, or as pread(2): each is one line for the user that names the
// configuration field and its value. Internal if `memory` has no RAM in its first MiB.
absl::StatusOr<InitialCpuState> PrepareBoot(const BootSources& sources, GuestAddress rsdp,
                                            const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_BOOT_H_
