#ifndef BULKHEAD_INTEGRATION_BALLOON_GUEST_RAM_USE_H_
#define BULKHEAD_INTEGRATION_BALLOON_GUEST_RAM_USE_H_

#include <stdint.h>
#include <sys/types.h>

namespace bulkhead::integration {

// What the guest's RAM takes of the host: the pages of the memory file of that vmm. 0: it has none.
uint64_t GuestRamUse(pid_t vmm);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_BALLOON_GUEST_RAM_USE_H_
