#ifndef BULKHEAD_DEVICES_HOST_INIT_SIGNALS_H_
#define BULKHEAD_DEVICES_HOST_INIT_SIGNALS_H_

namespace bulkhead::devices {

// A device process is init of its PID namespace, and the kernel spares init every signal that it
// has no handler for, but for SIGKILL, SIGSTOP, and those that a fault of its own raises. So
// abort() would end in a SIGSEGV, and `kill -SEGV PID` do nothing. After this call SIGABRT,
// SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGTRAP end the process at once, as anywhere else: with exit
// code 128 and the signal's number, or, for a fault, by the signal itself. Signals that have a
// handler already (a sanitizer's) keep it. Does nothing in a process that is not init. Call before
// threads start.
void EndByFatalSignalsAsInit();

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_INIT_SIGNALS_H_
