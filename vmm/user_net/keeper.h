#ifndef BULKHEAD_VMM_USER_NET_KEEPER_H_
#define BULKHEAD_VMM_USER_NET_KEEPER_H_

#include <stdint.h>

#include <atomic>

#include "vmm/config/vm_spec.h"
#include "vmm/side_process/side_processes.h"
#include "vmm/user_net/relay.h"

namespace bulkhead::vmm {

// What a keeper and its relay say of themselves, in memory that the vmm reads. They may have been
// taken over: it is for people.
struct UserNetReport {
  std::atomic<int32_t> program = 0;  // its pid; 0: it does not run
  std::atomic<uint32_t> program_starts = 0;
  RelayCounters lost;
};

// The keeper of a UserNet, and its relay: a side process, whose client 0 is the device. Ends when
// the relay does. With `confined` the relay has a system call filter.
[[noreturn]] void RunKeeper(const SideProcessStart& start, const UserNetSpec& spec, bool confined,
                            UserNetReport& report);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_USER_NET_KEEPER_H_
