#include "vmm/vcpu/acpi_registers.h"

#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

uint64_t AcpiRegisters::Read(Requester, uint64_t, uint8_t) { return 0; }

void AcpiRegisters::Write(Requester, uint64_t, uint8_t, uint64_t value) {
  if (value == layout::kAcpiS5Value) {
    end_.Report({EndReason::kPowerOff, "the guest powered off"});
  } else if (value == layout::kAcpiResetValue) {
    end_.Report({EndReason::kReset, "the guest asked for a reset"});
  }
}

}  // namespace bulkhead::vmm
