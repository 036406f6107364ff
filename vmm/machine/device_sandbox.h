#ifndef BULKHEAD_VMM_MACHINE_DEVICE_SANDBOX_H_
#define BULKHEAD_VMM_MACHINE_DEVICE_SANDBOX_H_

#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// Says for each device what confines its processes. `root`: they can be given users of their own;
// otherwise they keep the vmm's. Warns if the sandbox is off or lacks layers.
void ConfineDevices(bool root, VmSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_DEVICE_SANDBOX_H_
