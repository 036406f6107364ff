#ifndef BULKHEAD_VMM_BACK_END_BACK_END_SANDBOX_H_
#define BULKHEAD_VMM_BACK_END_BACK_END_SANDBOX_H_

#include <stdint.h>
#include <sys/types.h>

#include "vmm/config/vm_spec.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {

// The flags of clone3(2) that make a back end's namespaces.
uint64_t NamespacesOf(SandboxLayers layers);

// Gives `process`, a new one in those namespaces that waits, the users and groups that it needs
// from its parent: all, for one that serves a folder, if this process is root. Returns 0 or errno.
int MapUsersOf(pid_t process, const BackEndSpec& spec, SandboxLayers layers);

// Puts on the rest of a back end's sandbox, and executes its program. Call it in a new process of
// one thread, in those namespaces; `uid` and `gid` were its user and group before. If that fails,
// says so on standard error and ends.
//
// A back end is a program of the host, with libraries and files, so its sandbox is looser than a
// device's. It sees /usr and what it is given (BackEndSpec.files), all but those to be written
// read-only; no other process, interface or device; it has no capabilities and gets none. It may
// start threads and no processes, and make system calls but those that a program on files and a
// unix socket does not need (mounts, namespaces, tracing, keys, sockets of other kinds, io_uring,
// and the like).
//
// One that serves a folder (BackEndSpec.serves_folder) keeps the rights to files of other users
// that root has, in its user namespace; has the processes of its PID namespace, itself, in /proc;
// and may call chroot(2) and unshare(CLONE_FS).
[[noreturn]] void ExecuteConfined(const BackEndSpec& spec, SandboxLayers layers, uid_t uid,
                                  gid_t gid);

// Leaves this process, which has opened all that it needs, nothing but to pass messages on between
// unix sockets. If that fails, ends.
void ConfineKeeper(SandboxLayers layers);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BACK_END_BACK_END_SANDBOX_H_
