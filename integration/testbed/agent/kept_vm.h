#ifndef BULKHEAD_INTEGRATION_TESTBED_AGENT_KEPT_VM_H_
#define BULKHEAD_INTEGRATION_TESTBED_AGENT_KEPT_VM_H_

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::testbed {

// A VM that never runs, to be kept while others do: with it KVM rewrites none of the kernel's code
// when they come and go.
//
// The kernel switches what few need on and off by rewriting instructions (static keys), and KVM
// does so for its first VM and its last one (preemption notifiers, in the scheduler) and for the
// first virtual processor whose local APIC is disabled and the last one. QEMU's multi-threaded
// emulation can miss such a write: a processor that translates the instruction at that moment
// keeps a breakpoint that is in memory no more. The handler finds none, returns to it, and so for
// ever. Seen in __schedule(), once in some twenty boots of a guest on a busy host.
struct KeptVm {
  UniqueFd vm;
  UniqueFd vcpu;  // in its state after reset, in which its local APIC is disabled
};

// Errors: as open(2) of /dev/kvm, and its ioctls.
absl::StatusOr<KeptVm> KeepVm();

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_AGENT_KEPT_VM_H_
