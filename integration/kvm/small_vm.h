#ifndef BULKHEAD_INTEGRATION_KVM_SMALL_VM_H_
#define BULKHEAD_INTEGRATION_KVM_SMALL_VM_H_

#include <stdint.h>

#include <memory>
#include <optional>
#include <ostream>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "vmm/acpi/acpi_registers.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/memory/io_handler.h"
#include "vmm/vcpu/vcpu_threads.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// Guest code in this test binary: 32-bit, AT&T syntax, to run at kCodeAddress.
// GUEST_CODE(name, "...") defines it, GUEST_CODE_BYTES(name) is its bytes.
#define GUEST_CODE(name, assembly)                                                   \
  extern "C" const uint8_t name##_begin[], name##_end[];                             \
  asm(".pushsection .rodata\n.code32\n.globl " #name "_begin, " #name "_end\n" #name \
      "_begin:\n" assembly "\n" #name "_end:\n.code64\n.popsection\n")
#define GUEST_CODE_BYTES(name) absl::MakeConstSpan(name##_begin, name##_end)

// Powers off.
#define POWER_OFF "mov $0x600, %dx\n mov $0x34, %al\n out %al, %dx\n"

inline constexpr GuestAddress kCodeAddress = 0x100000;
inline constexpr GuestAddress kMmio = 0xc0000000;  // of the recorder, a page
inline constexpr uint16_t kPort = 0x3f8;           // of the recorder, eight ports

// An access as a device sees it.
struct RecordedAccess {
  enum Kind { kRead, kWrite } kind;
  uint64_t offset;
  int size_bytes;
  uint64_t value;  // written; 0 for a read

  bool operator==(const RecordedAccess&) const = default;
};
std::ostream& operator<<(std::ostream& out, const RecordedAccess& access);

// Records writes and answers reads with `answer`. Thread-safe.
class Recorder : public IoHandler {
 public:
  uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) override;
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override;

  void set_answer(uint64_t answer);
  std::vector<RecordedAccess> accesses() const;
  std::vector<Waiter> waiters() const;
  // Waits until there were `count` accesses. False: not within 30 s.
  bool AwaitAccesses(size_t count) const;

 private:
  mutable absl::Mutex mutex_;
  uint64_t answer_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<RecordedAccess> accesses_ ABSL_GUARDED_BY(mutex_);
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
};

// A VM of 16 MiB that starts `code` in flat 32-bit protected mode with a stack, and has a
// recorder in memory and one at ports. Construction fails the test if KVM is not usable.
class SmallVm {
 public:
  explicit SmallVm(absl::Span<const uint8_t> code, uint32_t vcpus = 1);

  void Start();
  // Waits for the end. Fails the test after 30 s.
  VmEnd AwaitEnd();
  VmEnd StartAndAwaitEnd();

  EventRouting& routing() { return vm_->event_routing(); }
  VcpuThreads& threads() { return *threads_; }
  const GuestMemory& memory() const { return ram_->memory(); }

  Recorder mmio, port;

 private:
  std::unique_ptr<VmEndLatch> end_;
  AcpiRegisters acpi_registers_;
  AddressSpace mmio_space_, port_space_;
  std::optional<GuestRam> ram_;
  std::optional<Kvm> kvm_;
  std::unique_ptr<KvmVm> vm_;
  std::unique_ptr<VcpuThreads> threads_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_INTEGRATION_KVM_SMALL_VM_H_
