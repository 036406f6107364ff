#ifndef BULKHEAD_VMM_MACHINE_CHECK_VM_H_
#define BULKHEAD_VMM_MACHINE_CHECK_VM_H_

#include <memory>

#include "absl/status/status.h"
#include "vmm/config/vm_spec.h"
#include "vmm/launcher/launcher.h"

namespace bulkhead::vmm {

// Checks a configuration beyond its validation, without starting the VM: that the kernel and the
// initrd load into memory of that size, and that each device's binary starts with its flags, has
// the resources it needs, and does not conflict with other devices. Starts the devices up to their
// description, without resources. Needs no KVM and leaves nothing behind.
//
// Errors: one message for the operator. InvalidArgument: a mistake in the configuration, as at a
// start.
absl::Status CheckVm(VmSpec spec, std::unique_ptr<Launcher> launcher);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_CHECK_VM_H_
