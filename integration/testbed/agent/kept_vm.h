#ifndef BULKHEAD_INTEGRATION_TESTBED_AGENT_KEPT_VM_H_
#define BULKHEAD_INTEGRATION_TESTBED_AGENT_KEPT_VM_H_

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::testbed {

// A VM that never runs. While it exists, KVM does not rewrite the kernel's code when other VMs
// start and end.
//
// The kernel turns rarely used code on and off by rewriting instructions (static keys). KVM does so
// for its first and its last VM (preemption notifiers, in the scheduler), and for the first and the
// last virtual processor whose local APIC is disabled. QEMU's multi-threaded
// emulation can miss such a write: a processor that translates the instruction at that moment
// keeps a breakpoint that memory no longer holds. The handler finds none and returns to it, for
// ever. Seen in __schedule(), once in some twenty boots of a guest on a busy host.
struct KeptVm {
  UniqueFd vm;
  UniqueFd vcpu;  // in its state after reset, in which its local APIC is disabled
};

// Errors: as open(2) of /dev/kvm, and its ioctls.
absl::StatusOr<KeptVm> KeepVm();

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_AGENT_KEPT_VM_H_
