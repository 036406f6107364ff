#ifndef BULKHEAD_VMM_MACHINE_CHECK_VM_H_
#define BULKHEAD_VMM_MACHINE_CHECK_VM_H_

#include "absl/status/status.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// What validation alone cannot know of a configuration, without starting the VM: whether the kernel
// and the initrd load into memory of that size, and whether each device's binary starts with its
// flags, has the resources it needs, and fits in beside the others. Devices are started up to their
// description; they get no resource. Needs no KVM and leaves nothing behind.
//
// Errors: one message for the operator; InvalidArgument: the configuration's mistake, as at a
// start.
absl::Status CheckVm(VmSpec spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_CHECK_VM_H_
