#ifndef BULKHEAD_VMM_SIDE_PROCESS_KEEPER_H_
#define BULKHEAD_VMM_SIDE_PROCESS_KEEPER_H_

#include <vector>

#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {

// The keeper. Call it in a new process, which may be a copy of one with several threads. `parent`:
// a pidfd of its parent, with which it ends.
[[noreturn]] void KeepSideProcesses(int parent, const std::vector<SideProcess>& processes);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SIDE_PROCESS_KEEPER_H_
