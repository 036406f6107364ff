#ifndef BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_
#define BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_

#include <stddef.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// Whether the host lets this process have what a VM of so many vCPUs and devices takes, asked
// before anything is started: what runs out in the middle of a start or at a restart is reported
// by the next caller that needs it, if at all. Estimates, on the low side for a device with many
// queues. Errors: ResourceExhausted, which names the limit and how to raise it.
absl::Status CheckOpenFileBudget(size_t cpus, size_t devices);
// Starts as many threads as the vmm and its device processes have, and ends them again: the limits
// on a user's processes and those of cgroups cannot be known in another way.
absl::Status CheckThreadBudget(size_t cpus, size_t devices);

// The end of a message about a thread that could not be started.
inline constexpr absl::string_view kHowToRaiseThreadLimit =
    "raise the limit, by \"ulimit -u\", TasksMax= of a systemd unit, or pids.max of the cgroup";

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_
