#ifndef BULKHEAD_VMM_VCPU_THREAD_TIMES_H_
#define BULKHEAD_VMM_VCPU_THREAD_TIMES_H_

#include <sys/types.h>

#include <optional>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead::vmm {

// The processor time of a thread that runs a vCPU, as the kernel counts it.
struct ThreadTimes {
  absl::Duration processor;  // all of it
  absl::Duration guest;      // in guest code; sampled, by the kernel's tick
};

// From /proc/PID/task/TID/stat (proc(5)). Empty: `stat` is none. Pure.
std::optional<ThreadTimes> ParseThreadTimes(absl::string_view stat, int ticks_per_second);

// Of a thread of this process. Empty: it has ended, or there is no /proc.
std::optional<ThreadTimes> ReadThreadTimes(pid_t thread);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_THREAD_TIMES_H_
