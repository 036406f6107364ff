#ifndef BULKHEAD_BASE_CORE_DUMPS_H_
#define BULKHEAD_BASE_CORE_DUMPS_H_

namespace bulkhead {

// A core dump of a process that maps guest memory would contain it, and the process is dead only
// once the dump is written. An RLIMIT_CORE of 1 byte forbids dumps; 0 does not: a program that
// core_pattern names still runs, and gets the whole dump (core(5)).

// For the vmm. Call before it starts the launcher, whose processes get that limit (vmm/launcher/
// confined_child.cc). If the hard limit is 0 and may not be raised, they cannot get it: then the
// dumps of this process and of those that it starts contain no memory (coredump_filter). Returns
// true in that case, if core_pattern names a program.
bool KeepMemoryOfChildrenOutOfCoreDumps();

// For a device process. It becomes undumpable, whatever its parent has set. So other processes of
// its user cannot trace it nor look into its memory and descriptors in /proc, unless that user is
// root.
void ForbidOwnCoreDumps();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_CORE_DUMPS_H_
