#include "vmm/pci/intx.h"

#include "base/event_fd.h"
#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

uint32_t Intx::GsiOfSlot(uint32_t slot) {
  return layout::kIntxGsiBase + slot % layout::kIntxGsiCount;
}

Intx::Intx(uint32_t gsi, int event_fd, int resample_fd, EventRouting& routing)
    : gsi_(gsi), event_fd_(event_fd), resample_fd_(resample_fd), routing_(routing) {}

Intx::~Intx() {
  if (bound_) (void)routing_.UnbindIrq(gsi_, event_fd_);
}

absl::Status Intx::SetUsable(bool usable) {
  if (usable == bound_) return absl::OkStatus();
  if (!usable) {
    bound_ = false;
    return routing_.UnbindIrq(gsi_, event_fd_);
  }
  RETURN_IF_ERROR(routing_.BindIrq(gsi_, event_fd_, resample_fd_));
  bound_ = true;
  return absl::OkStatus();
}

bool Intx::IsPending() const { return !bound_ && IsEventFdPending(event_fd_); }

void Intx::DiscardPending() {
  if (!bound_) DrainEventFd(event_fd_);
}

}  // namespace bulkhead::vmm
