#include "vmm/acpi/power_button.h"

#include "absl/memory/memory.h"
#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<PowerButton>> PowerButton::Create(EventRouting& routing) {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  RETURN_IF_ERROR(routing.BindIrq(layout::kPowerButtonGsi, event.fd(), /*resample_fd=*/-1));
  return absl::WrapUnique(new PowerButton(routing, std::move(event)));
}

PowerButton::~PowerButton() {
  routing_.UnbindIrq(layout::kPowerButtonGsi, event_.fd()).IgnoreError();
}

}  // namespace bulkhead::vmm
