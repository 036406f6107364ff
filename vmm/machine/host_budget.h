#ifndef BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_
#define BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_

#include <stddef.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// What a VM takes of the host, as far as the configuration tells.
struct VmSize {
  size_t cpus = 0;
  size_t devices = 0;
  size_t spares = 0;
  size_t further_queues = 0;  // of all devices, but for one each
};
VmSize SizeOf(const VmSpec& spec);

// Whether the host lets this process have what such a VM takes, asked before anything is started:
// what runs out in the middle of a start or at a restart is reported by the next caller that needs
// it. Estimates: how many events a device has is known once its process has said it. Errors:
// ResourceExhausted, which names the limit and how to raise it.
absl::Status CheckOpenFileBudget(const VmSize& vm);
// Starts as many threads as the vmm and its device processes have, and ends them again: the limits
// on a user's processes and those of cgroups cannot be known in another way.
absl::Status CheckThreadBudget(const VmSize& vm);

// The end of a message about a thread that could not be started.
inline constexpr absl::string_view kHowToRaiseThreadLimit =
    "raise the limit, by \"ulimit -u\", TasksMax= of a systemd unit, or pids.max of the cgroup";

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_HOST_BUDGET_H_
