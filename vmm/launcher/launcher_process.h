#ifndef BULKHEAD_VMM_LAUNCHER_LAUNCHER_PROCESS_H_
#define BULKHEAD_VMM_LAUNCHER_LAUNCHER_PROCESS_H_

namespace bulkhead::vmm {

// Makes the launcher and the init of its PID namespace, both as children of this process's parent,
// and ends. Call it in a new process, a copy of the vmm from before it had threads. Sends a
// LauncherReport over `socket`, with the pidfds of the launcher and, if there is one, of init. The
// launcher then takes LaunchRequests from `socket`, until the vmm has closed its end. `lifeline`: a
// socket whose other end the vmm holds, over which init takes LeftoverRequests. When that is closed
// or the launcher ends, init kills every process in the namespace. When it is closed, init removes
// what the vmm has left (leftovers.h), and ends. `argv`: main()'s, where `ps` finds the names of
// both; or null.
[[noreturn]] void MakeLauncher(int socket, int lifeline, char** argv);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LAUNCHER_LAUNCHER_PROCESS_H_
