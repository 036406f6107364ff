#ifndef BULKHEAD_VMM_CONFIG_SUPERVISION_H_
#define BULKHEAD_VMM_CONFIG_SUPERVISION_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// A wrong field of a DeviceConfig ("restart.max_crashes"), and what is wrong with it.
struct FieldProblem {
  std::string field;
  std::string problem;
};

// Parses a duration into `out`, unless `text` is empty.
std::optional<FieldProblem> ReadDuration(const std::string& field, const std::string& text,
                                         absl::Duration min, absl::Duration max,
                                         absl::Duration& out);

// Reads how a device is supervised: access_policy, restart, heartbeat, spare.
std::optional<FieldProblem> ReadSupervision(const v1::DeviceConfig& config, DeviceSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_SUPERVISION_H_
