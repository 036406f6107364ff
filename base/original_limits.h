#ifndef BULKHEAD_BASE_ORIGINAL_LIMITS_H_
#define BULKHEAD_BASE_ORIGINAL_LIMITS_H_

#include <stdint.h>
#include <sys/resource.h>

namespace bulkhead {

// Inherited values that this process has changed for itself. The processes that it starts get the
// original ones (vmm/process/spawn_process.cc), so using them must need no allocation.
struct OriginalLimits {
  bool raised_open_files = false;
  rlimit open_files = {};
  char oom_score_adj[8] = "";  // as in /proc/PID/oom_score_adj; empty: not changed
};

// Set by the functions below, before threads start.
const OriginalLimits& GetOriginalLimits();

// Raises the soft limit of open files to the hard limit: the usual soft limit of 1024 is for
// programs that use select(2), and a VM with many devices and vCPUs needs more. Programs that this
// process starts get the original soft limit, or `child_minimum` if that is more and the hard limit
// allows it.
void RaiseOpenFileLimit(rlim_t child_minimum);

// Makes the OOM killer choose this process rather than those that it starts. Their badness is about
// the same, because all map the same guest RAM; but this process owns that RAM, so killing another
// one frees nothing. Needs no privilege. Does nothing without /proc.
void BecomePreferredByOomKiller();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_ORIGINAL_LIMITS_H_
