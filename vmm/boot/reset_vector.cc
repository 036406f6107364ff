#include "vmm/boot/reset_vector.h"

#include <stdint.h>

#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

absl::Status WriteResetVector(const GuestMemory& memory) {
  constexpr uint8_t kCode[] = {
      0xba,
      layout::kAcpiPort & 0xff,
      layout::kAcpiPort >> 8,  // mov $kAcpiPort, %dx
      0xb0,
      layout::kAcpiResetValue,  // mov $kAcpiResetValue, %al
      0xee,                     // out %al, %dx
      0xfa,                     // cli
      0xf4,                     // hlt
      0xeb,
      0xfd,  // jmp to the hlt
  };
  static_assert(layout::kResetVector + sizeof(kCode) <= layout::kHighMemory);
  if (!memory.Write(layout::kResetVector, kCode)) {
    return absl::InternalError("the guest has no RAM for the reset vector");
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
