#ifndef BULKHEAD_BASE_ORIGINAL_LIMITS_H_
#define BULKHEAD_BASE_ORIGINAL_LIMITS_H_

#include <stdint.h>
#include <sys/resource.h>

namespace bulkhead {

// What this process inherited and changed for itself alone. A process that it starts gets it back
// (vmm/process/spawn_process.cc), so it is in a form that needs no allocation to use.
struct OriginalLimits {
  bool raised_open_files = false;
  rlimit open_files = {};
  char oom_score_adj[8] = "";  // as in /proc/PID/oom_score_adj; empty: not changed
};

// Set by the functions below, before threads start.
const OriginalLimits& GetOriginalLimits();

// Raises the soft limit of open files to the hard limit: the usual soft limit of 1024 is for
// programs that use select(2), and a VM with many devices and vCPUs needs more. A program that this
// process starts gets the soft limit back, but at least `child_minimum` if the hard limit has that.
void RaiseOpenFileLimit(rlim_t child_minimum);

// Has the kernel, where it runs out of memory, end this process rather than those that it starts.
// Their badness is about the same, because they map the same guest RAM; but this process owns it,
// so ending another one frees nothing. Needs no privilege. Does nothing without /proc.
void BecomePreferredByOomKiller();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_ORIGINAL_LIMITS_H_
