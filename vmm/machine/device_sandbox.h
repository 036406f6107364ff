#ifndef BULKHEAD_VMM_MACHINE_DEVICE_SANDBOX_H_
#define BULKHEAD_VMM_MACHINE_DEVICE_SANDBOX_H_

#include <stdint.h>

#include "absl/status/status.h"
#include "vmm/config/vm_spec.h"
#include "vmm/launcher/launcher.h"

namespace bulkhead::vmm {

// Says for each device, and for the boot loader, what confines its processes. If `launcher` is root
// they get users of their own; otherwise they keep the vmm's. Warns if the sandbox is off or lacks
// layers.
void ConfineDevices(const Launcher& launcher, VmSpec& spec);
// How many users they get: numbers in a row, the first device's first.
uint32_t CountSandboxUsers(const VmSpec& spec);

// Gives each device a control group if the host has delegated one to the vmm, and moves the vmm
// into one. They are removed at the end of the VM. Errors: one line for the operator: limits are
// wanted, or a group is named, but it cannot be had.
absl::Status PlaceIntoCgroups(Launcher& launcher, VmSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_DEVICE_SANDBOX_H_
