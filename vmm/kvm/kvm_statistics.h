#ifndef BULKHEAD_VMM_KVM_KVM_STATISTICS_H_
#define BULKHEAD_VMM_KVM_KVM_STATISTICS_H_

#include <stddef.h>
#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// The statistics that KVM keeps of each vCPU anyway (Linux 5.14, "The KVM binary stats
// descriptor"): reading them costs the vCPU nothing. Thread-safe.
class KvmStatistics {
 public:
  // Those of a vCPU. One of a kernel that has none reads as empty.
  static KvmStatistics OfVcpu(int vcpu_fd);

  // Values of the counters `names`, 0 for one that this kernel does not have. Empty: it has none at
  // all, or the host cannot read them now.
  std::optional<std::vector<uint64_t>> Read(absl::Span<const absl::string_view> names) const;

 private:
  struct Counter {
    std::string name;
    size_t offset;  // of the value, in the data
  };

  KvmStatistics() = default;

  UniqueFd fd_;
  std::vector<Counter> counters_;
  uint64_t data_offset_ = 0;
  size_t data_bytes_ = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_STATISTICS_H_
