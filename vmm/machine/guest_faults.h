#ifndef BULKHEAD_VMM_MACHINE_GUEST_FAULTS_H_
#define BULKHEAD_VMM_MACHINE_GUEST_FAULTS_H_

#include "absl/strings/string_view.h"
#include "proto/vm_control.pb.h"
#include "proto/vm_link.h"
#include "vmm/config/vm_spec.h"
#include "vmm/vm/vm_end.h"
#include "vmm/vm_link/vm_links.h"

namespace bulkhead::vmm {

// What the vmm does about what devices report of the guest. Pure.
class GuestFaults {
 public:
  GuestFaults(FaultAction on_panic, FaultAction on_watchdog)
      : on_panic_(on_panic), on_watchdog_(on_watchdog) {}

  FaultAction ActionOn(VmReport::Kind kind) const;
  // The event of a report about which the vmm does that.
  static v1::Event EventOf(const VmLinks::Report& report, FaultAction action);
  // For FaultAction::kExit.
  static EndReason EndOf(VmReport::Kind kind);
  // "the guest's kernel has crashed"
  static absl::string_view TextOf(VmReport::Kind kind);

 private:
  const FaultAction on_panic_;
  const FaultAction on_watchdog_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_GUEST_FAULTS_H_
