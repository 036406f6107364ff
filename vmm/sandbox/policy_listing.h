#ifndef BULKHEAD_VMM_SANDBOX_POLICY_LISTING_H_
#define BULKHEAD_VMM_SANDBOX_POLICY_LISTING_H_

#include <string>

#include "absl/status/statusor.h"

namespace bulkhead::vmm {

// For people: the system calls that a device process with this binary may make, and how many.
// Errors: InvalidArgument, naming the path.
absl::StatusOr<std::string> ListPolicyOf(const std::string& binary_path);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_POLICY_LISTING_H_
