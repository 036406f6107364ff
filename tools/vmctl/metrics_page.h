#ifndef BULKHEAD_TOOLS_VMCTL_METRICS_PAGE_H_
#define BULKHEAD_TOOLS_VMCTL_METRICS_PAGE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/vm_control.pb.h"
#include "tools/vmctl/discovery.h"

namespace bulkhead::vmctl {

// What one VM has answered.
struct VmAnswer {
  std::string label;                                    // for the label `vm`
  std::optional<v1::VmMetrics> metrics = std::nullopt;  // empty: it did not answer in time
  absl::Duration answer_time = absl::ZeroDuration();    // or how long it was waited for
};

// The metrics of several VMs as one: each sample with the label `vm`, and of each VM
// bulkhead_vm_up and bulkhead_vm_answer_seconds. The result has no repeated series, and no family
// whose name does not begin with "bulkhead_"; of a family that VMs give as different kinds it has
// the kind that most of them give. So a vmm that a guest has taken over can neither make a reader
// refuse what is there of the others, nor speak for them. Pure.
v1::VmMetrics MergeMetrics(absl::Span<const VmAnswer> answers);

// The labels of `vms`: the name; for one whose name another VM before has, the path of its socket.
std::vector<std::string> LabelsOf(absl::Span<const VmAddress> vms);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_METRICS_PAGE_H_
