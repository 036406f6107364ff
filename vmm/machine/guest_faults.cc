#include "vmm/machine/guest_faults.h"

#include <string>

namespace bulkhead::vmm {

FaultAction GuestFaults::ActionOn(VmReport::Kind kind) const {
  switch (kind) {
    case VmReport::kPanicked:
      return on_panic_;
    case VmReport::kWatchdogExpired:
      return on_watchdog_;
    case VmReport::kCrashLoaded:
    case VmReport::kAsk:
      break;
  }
  return FaultAction::kReport;
}

EndReason GuestFaults::EndOf(VmReport::Kind kind) {
  return kind == VmReport::kWatchdogExpired ? EndReason::kWatchdog : EndReason::kPanic;
}

absl::string_view GuestFaults::TextOf(VmReport::Kind kind) {
  switch (kind) {
    case VmReport::kPanicked:
      return "the guest's kernel has crashed";
    case VmReport::kCrashLoaded:
      return "the guest's kernel has crashed, its crash kernel takes over";
    case VmReport::kWatchdogExpired:
      return "the guest's watchdog has expired";
    case VmReport::kAsk:
      break;
  }
  return "";
}

v1::Event GuestFaults::EventOf(const VmLinks::Report& report, FaultAction action) {
  v1::Event event;
  v1::GuestReport& guest = *event.mutable_guest_report();
  guest.set_device(report.device);
  switch (report.kind) {
    case VmReport::kPanicked:
      guest.set_kind(v1::GuestReport::PANICKED);
      break;
    case VmReport::kCrashLoaded:
      guest.set_kind(v1::GuestReport::CRASH_LOADED);
      break;
    case VmReport::kWatchdogExpired:
      guest.set_kind(v1::GuestReport::WATCHDOG_EXPIRED);
      break;
    case VmReport::kAsk:
      break;
  }
  switch (action) {
    case FaultAction::kExit:
      guest.set_action("the VM ends");
      break;
    case FaultAction::kReboot:
      guest.set_action("the guest reboots");
      break;
    case FaultAction::kPause:
      guest.set_action("the VM is paused");
      break;
    case FaultAction::kReport:
      break;
  }
  return event;
}

}  // namespace bulkhead::vmm
