#ifndef BULKHEAD_VMM_KVM_KVM_EVENT_ROUTING_H_
#define BULKHEAD_VMM_KVM_KVM_EVENT_ROUTING_H_

#include <stdint.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/kvm/msi_routes.h"

namespace bulkhead::vmm {

// EventRouting over KVM's GSI routing table, irqfds and ioeventfds. Thread-safe.
//
// GSIs 0 to 23 are routed to the pins of the I/O APIC only, so the 8259s get no input. KVM's
// default table routes 0 to 15 to its 8259s as well. A guest that does not look for an 8259 neither
// programs nor masks it, while LINT0 stays in ExtINT mode: the 8259s would then deliver each ISA
// interrupt a second time, as vector 0 to 15, which are exceptions.
//
// A change of the table waits for readers of the old one and so takes up to milliseconds. It is
// needed only for a message that has no route yet (msi_routes.h).
class KvmEventRouting final : public EventRouting {
 public:
  // `vm_fd` is borrowed and must outlive this.
  KvmEventRouting(int vm_fd, uint32_t max_gsi_routes);

  absl::Status ReserveMsis(uint32_t count) override;
  absl::StatusOr<uint32_t> BindMsi(const MsiMessage& message, int event_fd) override;
  absl::Status BindIrq(uint32_t gsi, int event_fd, int resample_fd) override;
  absl::Status UnbindIrq(uint32_t gsi, int event_fd) override;
  absl::Status BindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                            int event_fd) override;
  absl::Status UnbindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                              int event_fd) override;

 private:
  // Gives KVM the pins of the I/O APIC and `msis`.
  absl::Status SetTable(MsiRoutes msis) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int vm_fd_;
  absl::Mutex mutex_;
  MsiRoutes msis_ ABSL_GUARDED_BY(mutex_);
  bool set_ ABSL_GUARDED_BY(mutex_) = false;  // KVM has the table
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_EVENT_ROUTING_H_
