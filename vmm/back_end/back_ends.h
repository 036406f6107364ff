#ifndef BULKHEAD_VMM_BACK_END_BACK_ENDS_H_
#define BULKHEAD_VMM_BACK_END_BACK_ENDS_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/config/vm_spec.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {

// Adds a side process for each resource of `devices` that is a back end (BackEndSpec). It starts
// the back end's program, in its sandbox, and another one whenever it ends, after a pause that
// doubles from 100 ms to 10 s. What the program writes to its standard error is logged. Both end
// with this process.
//
// Sets the devices' `program`, and the resources' `socket_anchor`, where the back ends listen;
// connections wait there for the next one. The back end's files are locked against other VMs, also
// while no program runs. Errors: FailedPrecondition (such a file is in use), or as open(2),
// socket(2), bind(2), listen(2).
absl::Status AddBackEnds(std::vector<DeviceSpec>& devices, SandboxLayers layers,
                         std::vector<SideProcess>& processes);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BACK_END_BACK_ENDS_H_
