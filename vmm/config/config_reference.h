#ifndef BULKHEAD_VMM_CONFIG_CONFIG_REFERENCE_H_
#define BULKHEAD_VMM_CONFIG_CONFIG_REFERENCE_H_

#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// The text of proto/vm_config.proto: all fields of a configuration file, with their explanations.
// Generated at build time, so that it matches this program.
absl::string_view ConfigReference();

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_CONFIG_REFERENCE_H_
