#ifndef BULKHEAD_VMM_BOOT_RESET_VECTOR_H_
#define BULKHEAD_VMM_BOOT_RESET_VECTOR_H_

#include "absl/status/status.h"
#include "base/guest_memory.h"

namespace bulkhead::vmm {

// Writes real-mode code at layout::kResetVector, where a PC has its BIOS's entry. The code resets
// the machine through the ACPI reset register.
//
// Some guests reset a PC by jumping there, as a last resort or because they use no other way
// (Linux: native_machine_emergency_restart()). Without the code such a guest hangs.
// Errors: Internal (no RAM there).
absl::Status WriteResetVector(const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_RESET_VECTOR_H_
