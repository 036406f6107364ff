#ifndef BULKHEAD_BASE_OWN_LIMITS_H_
#define BULKHEAD_BASE_OWN_LIMITS_H_

namespace bulkhead {

// Both are inherited by processes that are started later.

// Raises the soft limit of open files to the hard limit: the usual soft limit of 1024 is for
// programs that use select(2), and a VM with many devices and vCPUs needs more.
void RaiseOpenFileLimit();

// Makes the OOM killer choose this process rather than those that it has started. Their badness is
// about the same, because all map the same guest RAM; but this process owns that RAM, so killing
// another one frees nothing. Needs no privilege. Does nothing without /proc.
void BecomePreferredByOomKiller();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_OWN_LIMITS_H_
