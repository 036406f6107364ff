#ifndef BULKHEAD_VMM_ACPI_ACPI_REGISTERS_H_
#define BULKHEAD_VMM_ACPI_ACPI_REGISTERS_H_

#include <stdint.h>

#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/memory/io_handler.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// The ACPI hardware registers (ACPI 6.5, section 4.8.3), at layout::kAcpiPort:
//
//   offset 0        writing layout::kAcpiResetValue resets, layout::kAcpiS5Value powers off
//   offset 4, 6     PM1 status and enable: the power button
//   offset 8        PM1 control: SLP_TYP 5 with SLP_EN powers off; always in ACPI mode (SCI_EN)
//   offset 12, 13   general-purpose events, status and enable: 0 wakes the guest
//
// A status bit that the guest has enabled raises the SCI. Only the SCI wakes a Linux guest from
// suspend-to-idle; therefore the machine is not hardware-reduced.
//
// A press of the power button before the guest has enabled it is kept, because operating systems
// clear the status when they enable the event. It is kept across a reset, too (has_kept_press()):
// the operator wants the machine off, whatever the guest was about to do.
//
// Thread-safe.
class AcpiRegisters final : public IoHandler {
 public:
  static constexpr uint64_t kPortCount = layout::kAcpiPortCount;

  // `end` must outlive this. `raise_sci` raises one edge of the SCI; it must not block.
  explicit AcpiRegisters(
      VmEndLatch& end, std::function<void()> raise_sci = [] {})
      : end_(end), raise_sci_(std::move(raise_sci)) {}

  uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) override;
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override;

  // False: the guest has not enabled the power button yet; the press is kept until it does.
  bool PressPowerButton();
  // True if a press waits for the guest to enable the power button.
  bool has_kept_press() const {
    absl::MutexLock lock(&mutex_);
    return kept_press_;
  }
  // Wakes a suspended guest. A guest that is awake gets the event but does nothing.
  void Wake();

 private:
  uint8_t ReadByte(uint64_t offset) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteByte(uint64_t offset, uint8_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool is_active() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  VmEndLatch& end_;
  const std::function<void()> raise_sci_;
  mutable absl::Mutex mutex_;
  uint16_t pm1_status_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t pm1_enable_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t pm1_control_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t gpe_status_ ABSL_GUARDED_BY(mutex_) = 0;
  uint8_t gpe_enable_ ABSL_GUARDED_BY(mutex_) = 0;
  bool kept_press_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_ACPI_ACPI_REGISTERS_H_
