#ifndef BULKHEAD_VMM_BOOT_RESET_VECTOR_H_
#define BULKHEAD_VMM_BOOT_RESET_VECTOR_H_

#include "absl/status/status.h"
#include "base/guest_memory.h"

namespace bulkhead::vmm {

// Writes real-mode code at layout::kResetVector, where a PC has its BIOS's entry, that resets the
// machine by its ACPI register.
//
// Without it a stock Linux does not reboot: on a hardware-reduced machine it prefers an EFI reset
// to the ACPI register, finds no EFI, and then jumps here in real mode (x86's
// efi_reboot_required() and native_machine_emergency_restart()).
// Errors: Internal (no RAM there).
absl::Status WriteResetVector(const GuestMemory& memory);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BOOT_RESET_VECTOR_H_
