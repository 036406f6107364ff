#ifndef BULKHEAD_VMM_PCI_INTX_H_
#define BULKHEAD_VMM_PCI_INTX_H_

#include <stdint.h>

#include "absl/status/status.h"
#include "vmm/hypervisor/event_routing.h"

namespace bulkhead::vmm {

// The INTA# line of one function ([PCI] 2.2.6): level-triggered, shared with other slots. The
// device signals one eventfd to raise the line; the guest's end-of-interrupt lowers it and
// signals the other, upon which a device that still has cause raises the line again.
//
// While the line is usable the kernel does all this. While it is not, the eventfd is unbound and
// holds the event. The vmm writes neither eventfd: a device can make such a write block.
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

  // Usable: MSI-X is disabled and the command register's INTx Disable bit is 0. When the line
  // has become usable the device must be told, so that it raises it again if it has cause:
  // unbinding lowered the line, and the event of that time is gone.
  // Errors: those of EventRouting; the line then stays silent.
  absl::Status SetUsable(bool usable);

  // The Interrupt Status bit, as far as the vmm can see it: an event waits while the line is not
  // usable. A usable line's events go to the interrupt controller inside the kernel, unseen.
  bool IsPending() const;
  // Forgets that event.
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
