#ifndef BULKHEAD_VMM_USER_NET_KEEPER_H_
#define BULKHEAD_VMM_USER_NET_KEEPER_H_

#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// The keeper of a UserNet, and its relay. Call it in a new process, which may be a copy of one with
// several threads. Devices' sockets come through `control`; when its other end is closed, or the
// parent dies, all ends.
[[noreturn]] void RunKeeper(int control, const UserNetSpec& spec, bool confined);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_USER_NET_KEEPER_H_
