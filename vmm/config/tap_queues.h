#ifndef BULKHEAD_VMM_CONFIG_TAP_QUEUES_H_
#define BULKHEAD_VMM_CONFIG_TAP_QUEUES_H_

#include <stdint.h>

#include <optional>
#include <string>

namespace bulkhead::vmm {

// How many queues of the multi-queue TAP `name` all programs together have, disabled ones included.
// nullopt: the kernel does not say.
std::optional<uint32_t> CountTapQueues(const std::string& name);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_TAP_QUEUES_H_
