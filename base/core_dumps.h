#ifndef BULKHEAD_BASE_CORE_DUMPS_H_
#define BULKHEAD_BASE_CORE_DUMPS_H_

namespace bulkhead {

// A core dump of a process that maps guest memory would hold it, and the process is not dead before
// that is written. What forbids dumps is an RLIMIT_CORE of 1 byte: with 0 the program that
// core_pattern may name is run all the same, and gets all (core(5)).

// For the vmm, before it starts processes, which get that limit (vmm/process/spawn_process).
// Where the hard limit is 0 and may not be raised they cannot: then no memory is dumped of this
// process and of those that it starts (coredump_filter). Returns true if that is so, and
// core_pattern names a program.
bool KeepMemoryOfChildrenOutOfCoreDumps();

// For a process that maps guest memory. It does not rely on the process that has started it: where
// its limit is not 1 byte, it is not dumped at all. What that costs: other processes of its user,
// who is not root, cannot trace it.
void ForbidOwnCoreDumps();

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_CORE_DUMPS_H_
