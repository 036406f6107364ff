#ifndef BULKHEAD_VMM_ACPI_POWER_BUTTON_H_
#define BULKHEAD_VMM_ACPI_POWER_BUTTON_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "base/event_fd.h"
#include "vmm/kvm/event_routing.h"

namespace bulkhead::vmm {

// The guest's power button, which dsdt.h tells it of: pressing it is one edge on
// layout::kPowerButtonGsi. What follows is up to the guest. Thread-safe.
class PowerButton {
 public:
  // `routing` must outlive the button. Errors: as eventfd(2), those of EventRouting::BindIrq().
  static absl::StatusOr<std::unique_ptr<PowerButton>> Create(EventRouting& routing);
  ~PowerButton();
  PowerButton(const PowerButton&) = delete;
  PowerButton& operator=(const PowerButton&) = delete;

  void Press() { event_.Signal(); }

 private:
  PowerButton(EventRouting& routing, EventFd event) : routing_(routing), event_(std::move(event)) {}

  EventRouting& routing_;
  const EventFd event_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_ACPI_POWER_BUTTON_H_
