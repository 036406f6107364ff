#ifndef BULKHEAD_VMM_MACHINE_VMM_LOCKDOWN_H_
#define BULKHEAD_VMM_MACHINE_VMM_LOCKDOWN_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/config/vm_spec.h"
#include "vmm/launcher/launcher.h"

// What the vmm gives up, so that a guest that has taken it over gets no further: the layer "vmm" of
// the sandbox. Both calls are made by the main thread; without the layer they do nothing.
namespace bulkhead::vmm {

// True if this vmm is to be locked down.
bool IsLockedDown(const VmSpec& spec);

// For this thread and those that it starts from now on: gives up the capabilities that the VM does
// not need, and by Landlock the right to make, change and execute files, but for its disks. Call it
// before the threads that last. A capability that remains is logged. `folders`: those in which the
// vmm will remove files. Errors: FailedPrecondition (this host lacks something: says how to do
// without), else as capset(2), prctl(2).
absl::Status DropPrivileges(const VmSpec& spec, const std::vector<std::string>& folders);

// Restricts the system calls of the whole process (vmm/sandbox/vmm_policy.txt), for good. Call it
// once the device processes run and before the first vCPU does. Errors: FailedPrecondition (this
// host lacks something: says how to do without), else as seccomp(2).
absl::Status RestrictSystemCalls();

// From now on `launcher` starts no process with less of a sandbox than `spec` has for devices. Call
// it after ConfineDevices(). Errors: as Launcher::Seal().
absl::Status SealLauncher(Launcher& launcher, const VmSpec& spec);

// A function that restricts the system calls of the vCPU's thread that calls it
// (vmm/sandbox/vcpu_policy.txt), and takes all files from it that it has not open. Empty if the vmm
// is not to be locked down.
absl::StatusOr<std::function<absl::Status()>> VcpuConfinement(const VmSpec& spec);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_VMM_LOCKDOWN_H_
