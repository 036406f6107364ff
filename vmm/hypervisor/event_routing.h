#ifndef BULKHEAD_VMM_HYPERVISOR_EVENT_ROUTING_H_
#define BULKHEAD_VMM_HYPERVISOR_EVENT_ROUTING_H_

#include <stdint.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bulkhead::vmm {

// A message-signalled interrupt as the guest programs it.
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;

  bool operator==(const MsiMessage&) const = default;
};

// Connects eventfds to the guest's interrupt controllers and to guest writes inside the kernel,
// so that neither wakes the vmm. Thread-safe. Implemented over KVM; tests have a fake.
class EventRouting {
 public:
  virtual ~EventRouting() = default;

  // Guarantees that so many more eventfds can be bound to messages at a time. Errors:
  // ResourceExhausted.
  virtual absl::Status ReserveMsis(uint32_t count) = 0;

  // Each signal of `event_fd` sends `message`. A count already pending sends it at once. Returns
  // the GSI, for UnbindIrq().
  virtual absl::StatusOr<uint32_t> BindMsi(const MsiMessage& message, int event_fd) = 0;
  // Each signal of `event_fd` raises the line `gsi`. A count already pending raises it at once.
  // With `resample_fd` >= 0 the line is level-triggered: it stays asserted until the guest's
  // end-of-interrupt, which deasserts it and signals `resample_fd`.
  virtual absl::Status BindIrq(uint32_t gsi, int event_fd, int resample_fd) = 0;
  // Later signals stay pending in `event_fd`.
  virtual absl::Status UnbindIrq(uint32_t gsi, int event_fd) = 0;

  enum class Space { kMemory, kPort };
  // Guest writes of `size_bytes` (0: any width) at `address` signal `event_fd` and do not leave
  // the kernel.
  virtual absl::Status BindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                                    int event_fd) = 0;
  virtual absl::Status UnbindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                                      int event_fd) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_HYPERVISOR_EVENT_ROUTING_H_
