#ifndef BULKHEAD_VMM_USER_NET_KEEPER_H_
#define BULKHEAD_VMM_USER_NET_KEEPER_H_

#include "vmm/config/program_report.h"
#include "vmm/config/vm_spec.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {

// The keeper of a UserNet, and its relay: a side process, whose client 0 is the device. Ends when
// the relay does. With `confined` the relay has a system call filter. Both report to `report`.
[[noreturn]] void RunKeeper(const SideProcessStart& start, const UserNetSpec& spec, bool confined,
                            ProgramReport& report);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_USER_NET_KEEPER_H_
