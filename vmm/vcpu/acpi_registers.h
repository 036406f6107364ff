#ifndef BULKHEAD_VMM_VCPU_ACPI_REGISTERS_H_
#define BULKHEAD_VMM_VCPU_ACPI_REGISTERS_H_

#include <stdint.h>

#include "vmm/memory/io_handler.h"
#include "vmm/vcpu/vm_end.h"

namespace bulkhead::vmm {

// The one register of a hardware-reduced ACPI machine (ACPI 6.5, 4.8.3.7 and 4.8.3.6): sleep
// control, sleep status and reset share the byte at layout::kAcpiPort. Writing
// layout::kAcpiS5Value powers off, layout::kAcpiResetValue resets; other values, such as the
// clearing of WAK_STS that precedes a sleep, do nothing. It reads as 0: no wake-up is pending.
// Thread-safe.
class AcpiRegisters final : public IoHandler {
 public:
  static constexpr uint64_t kPortCount = 1;

  // `end` must outlive this.
  explicit AcpiRegisters(VmEndLatch& end) : end_(end) {}

  uint64_t Read(Requester requester, uint64_t offset, uint8_t size_bytes) override;
  void Write(Requester requester, uint64_t offset, uint8_t size_bytes, uint64_t value) override;

 private:
  VmEndLatch& end_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_ACPI_REGISTERS_H_
