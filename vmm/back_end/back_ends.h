#ifndef BULKHEAD_VMM_BACK_END_BACK_ENDS_H_
#define BULKHEAD_VMM_BACK_END_BACK_ENDS_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// Starts a process for each resource of `devices` that is a back end (BackEndSpec), which starts
// the back end's program, in its sandbox, and another one whenever it ends, after a pause that
// doubles from 100 ms to 10 s. What the program writes to its standard error is logged. Both end
// with this process.
//
// Sets the resources' `socket_anchor`, where the back ends listen; connections wait there for the
// next one. Call it before this process
// gives up its rights. Errors: as fork(2), socket(2), bind(2), listen(2).
absl::Status StartBackEnds(std::vector<DeviceSpec>& devices, SandboxLayers layers);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BACK_END_BACK_ENDS_H_
