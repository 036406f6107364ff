#ifndef BULKHEAD_VMM_CONFIG_BALLOON_H_
#define BULKHEAD_VMM_CONFIG_BALLOON_H_

#include <string>

#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// Why a VM of this configuration cannot have a balloon, for the operator; "": it can.
std::string ProblemOfBalloon(const VmSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_BALLOON_H_
