#ifndef BULKHEAD_VMM_PCI_FAKE_EVENT_ROUTING_H_
#define BULKHEAD_VMM_PCI_FAKE_EVENT_ROUTING_H_

#include <stdint.h>

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/hypervisor/event_routing.h"

namespace bulkhead::vmm {

// Records what KVM would do with irqfds and ioeventfds. Refuses what KVM refuses, and records
// violations of the caller: binding twice, unbinding without a binding, binding more messages than
// were reserved. Thread-safe.
class FakeEventRouting final : public EventRouting {
 public:
  struct Doorbell {
    uint64_t address = 0;
    uint32_t size_bytes = 0;
    int event_fd = -1;
    auto operator<=>(const Doorbell&) const = default;
  };
  struct Delivery {
    uint32_t gsi = 0;      // of the line; 0 for a message
    uint64_t address = 0;  // of the message; 0 for a line
    uint32_t data = 0;
    auto operator<=>(const Delivery&) const = default;
  };

  // --- EventRouting
  absl::Status ReserveMsis(uint32_t count) override;
  absl::StatusOr<uint32_t> BindMsi(const MsiMessage& message, int event_fd) override;
  absl::Status BindIrq(uint32_t gsi, int event_fd, int resample_fd) override;
  absl::Status UnbindIrq(uint32_t gsi, int event_fd) override;
  absl::Status BindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                            int event_fd) override;
  absl::Status UnbindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                              int event_fd) override;

  // --- For a test's expectations
  // Consumes the pending counts of the bound eventfds, as the kernel does when they are signalled,
  // and returns all interrupts raised since the last call.
  std::vector<Delivery> TakeDeliveries();
  bool IsBound(int event_fd) const;
  size_t bound_irqs() const;
  std::vector<Doorbell> doorbells() const;  // sorted by address
  // Counts of calls, for "only when it changed".
  int irq_calls() const;  // BindMsi(), BindIrq(), UnbindIrq()
  int doorbell_calls() const;
  std::vector<std::string> violations() const;

  // --- For a test's faults
  void set_msi_limit(uint32_t limit);
  // Fails the next call of BindMsi or BindIrq, or of BindDoorbell.
  void FailNextBind();
  void FailNextDoorbell();

 private:
  struct Irq {
    uint32_t gsi = 0;
    Delivery delivery;
  };

  absl::Status Bind(int event_fd, const Irq& irq) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  uint32_t next_gsi_ ABSL_GUARDED_BY(mutex_) = 24;  // each binding of a message gets another
  uint32_t reserved_msis_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t bound_msis_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t msi_limit_ ABSL_GUARDED_BY(mutex_) = 4072;
  std::map<int, Irq> irqs_ ABSL_GUARDED_BY(mutex_);  // by eventfd: it is bound once at most
  std::set<Doorbell> doorbells_ ABSL_GUARDED_BY(mutex_);
  std::vector<Delivery> deliveries_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> violations_ ABSL_GUARDED_BY(mutex_);
  int irq_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int doorbell_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  bool fail_bind_ ABSL_GUARDED_BY(mutex_) = false;
  bool fail_doorbell_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_FAKE_EVENT_ROUTING_H_
