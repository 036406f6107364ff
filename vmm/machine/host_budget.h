#ifndef BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_
#define BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_

#include <stddef.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// The size of a VM, as far as the configuration determines it.
struct VmSize {
  size_t cpus = 0;
  size_t devices = 0;
  size_t spares = 0;
  size_t further_queues = 0;  // queues of all devices beyond one for each
};
VmSize SizeOf(const VmSpec& spec);

// Checks that the limits of this process allow such a VM. Call it before anything is started: a
// shortage in the middle of a start or at a restart would be reported by whichever call fails.
// An estimate: the number of a device's events is known only from its description. Errors:
// ResourceExhausted, which names the limit and how to raise it.
absl::Status CheckOpenFileBudget(const VmSize& vm);
// Starts as many threads as the vmm and its device processes have, and ends them again: there is no
// other way to find out the limits on a user's processes and those of cgroups. Errors: as above.
absl::Status CheckThreadBudget(const VmSize& vm);

// The end of a message about a thread that could not be started.
inline constexpr absl::string_view kHowToRaiseThreadLimit =
    "raise the limit, by \"ulimit -u\", TasksMax= of a systemd unit, or pids.max of the cgroup";

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_
