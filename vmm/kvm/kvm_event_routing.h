#ifndef BULKHEAD_VMM_KVM_KVM_EVENT_ROUTING_H_
#define BULKHEAD_VMM_KVM_KVM_EVENT_ROUTING_H_

#include <stdint.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// EventRouting by KVM's GSI routing table, irqfds and ioeventfds. Thread-safe.
//
// GSIs 0 to 23 lead to the pins of the I/O APIC and nowhere else. KVM's default table leads 0 to
// 15 to its 8259s as well; but not every guest looks for them, and one that does not neither
// programs nor masks an 8259, while LINT0 stays in ExtINT mode: the pair would deliver each ISA
// interrupt a second time, as vector 0 to 15, which are exceptions. So the 8259s get no input.
//
// A change of the table waits for readers of the old one, so it is slow (up to milliseconds):
// a route that is set to what it is costs nothing.
class KvmEventRouting final : public EventRouting {
 public:
  // `vm_fd` stays the caller's and must outlive this.
  KvmEventRouting(int vm_fd, uint32_t max_gsi_routes);

  absl::StatusOr<uint32_t> AllocateMsiGsi() override;
  absl::Status SetMsiRoute(uint32_t gsi, const MsiMessage& message) override;
  absl::Status BindIrq(uint32_t gsi, int event_fd, int resample_fd) override;
  absl::Status UnbindIrq(uint32_t gsi, int event_fd) override;
  absl::Status BindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                            int event_fd) override;
  absl::Status UnbindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                              int event_fd) override;

 private:
  absl::Status PushTable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int vm_fd_;
  const uint32_t max_gsi_routes_;
  absl::Mutex mutex_;
  uint32_t next_msi_gsi_ ABSL_GUARDED_BY(mutex_);
  std::vector<kvm_irq_routing_entry> table_ ABSL_GUARDED_BY(mutex_);
  bool pushed_ ABSL_GUARDED_BY(mutex_) = false;  // KVM knows `table_`
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_EVENT_ROUTING_H_
