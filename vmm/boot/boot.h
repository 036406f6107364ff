#ifndef BULKHEAD_VMM_BOOT_BOOT_H_
#define BULKHEAD_VMM_BOOT_BOOT_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/guest_memory.h"
#include "vmm/boot/boot_file.h"
#include "vmm/hypervisor/initial_cpu_state.h"

namespace bulkhead::vmm {

// What the guest boots from, as the user configured it.
struct BootSources {
  BootFile kernel;
  std::optional<BootFile> initrd = std::nullopt;
  std::string command_line = {};  // at most layout::kCommandLineMaxBytes - 1 bytes
};

// Puts kernel, initrd, command line and the boot information of the kernel's entry protocol
// into `memory`, and returns the state in which the first vCPU starts. `memory` is all zeroes
// but for the ACPI tables, whose RSDP is at `rsdp`.
//
// Errors: each is the one line for the user, names the configuration field and its value
// (InvalidArgument, or as pread(2)); Internal if `memory` has no RAM in its first MiB.
absl::StatusOr<InitialCpuState> PrepareBoot(const BootSources& sources, GuestAddress rsdp,
                                            const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_BOOT_H_
