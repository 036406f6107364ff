#ifndef BULKHEAD_VMM_PCI_INTX_H_
#define BULKHEAD_VMM_PCI_INTX_H_

#include <stdint.h>

#include "absl/status/status.h"
#include "vmm/hypervisor/event_routing.h"

namespace bulkhead::vmm {

// The INTA# line of one function ([PCI] 2.2.6): level-triggered, shared with other slots. The
// device signals one eventfd to assert the line. The guest's end-of-interrupt deasserts it and
// signals the other eventfd; a device that still has cause then asserts the line again.
//
// While the line is usable, the kernel does all this. Otherwise the eventfd is unbound and holds
// the event. The vmm writes neither eventfd: a device can make such a write block.
// Thread-compatible.
class Intx {
 public:
  // The GSI of a slot's line (vmm/memory/guest_layout.h).
  static uint32_t GsiOfSlot(uint32_t slot);

  // The descriptors are borrowed; `routing` must outlive the object.
  Intx(uint32_t gsi, int event_fd, int resample_fd, EventRouting& routing);
  ~Intx();
  Intx(const Intx&) = delete;
  Intx& operator=(const Intx&) = delete;

  // Usable: MSI-X is disabled and the command register's INTx Disable bit is 0. After the line has
  // become usable, send the device its function state, so that it asserts the line again if it has
  // cause: unbinding deasserted the line and lost the earlier event.
  // Errors: those of EventRouting; the line then delivers nothing.
  absl::Status SetUsable(bool usable);

  // The Interrupt Status bit, as far as the vmm can know it: true if an event is pending while the
  // line is not usable. The events of a usable line go to the interrupt controller inside the
  // kernel, where the vmm does not see them.
  bool IsPending() const;
  // Discards that event.
  void DiscardPending();

 private:
  const uint32_t gsi_;
  const int event_fd_;
  const int resample_fd_;
  EventRouting& routing_;
  bool bound_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_INTX_H_
