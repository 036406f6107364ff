#ifndef BULKHEAD_VMM_BOOT_RESET_VECTOR_H_
#define BULKHEAD_VMM_BOOT_RESET_VECTOR_H_

#include "absl/status/status.h"
#include "base/guest_memory.h"

namespace bulkhead::vmm {

// Writes real-mode code at layout::kResetVector, where a PC has its BIOS's entry, that resets the
// machine by its ACPI register.
//
// For guests that reset a PC by jumping there, as a last resort or because they trust nothing else
// (Linux: native_machine_emergency_restart()). Without it such a guest hangs.
// Errors: Internal (no RAM there).
absl::Status WriteResetVector(const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_RESET_VECTOR_H_
