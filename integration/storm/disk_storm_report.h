#ifndef BULKHEAD_INTEGRATION_STORM_DISK_STORM_REPORT_H_
#define BULKHEAD_INTEGRATION_STORM_DISK_STORM_REPORT_H_

#include <stdint.h>

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bulkhead::integration {

// The part of a disk that the guest's program disk_storm uses, as it is by default.
inline constexpr uint64_t kDiskStormBytes = uint64_t{256} * 4096;

// The sum over the versions that the blocks of a raw disk hold, as the guest computes it. Errors: a
// block is torn, or holds none of the versions up to `newest`.
absl::StatusOr<uint64_t> SumOfDiskVersions(const std::string& path, uint32_t newest);

// "name value" pairs of a line, or "name=value".
std::map<std::string, uint64_t> StormFigures(absl::string_view line);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_DISK_STORM_REPORT_H_
