#ifndef BULKHEAD_VMM_SANDBOX_SECCOMP_POLICY_H_
#define BULKHEAD_VMM_SANDBOX_SECCOMP_POLICY_H_

#include <linux/filter.h>
#include <sys/types.h>

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/sandbox/policy_text.h"

namespace bulkhead::vmm {

// The system calls of a device process: common_policy.txt and, behind it, what `device_policy` adds
// (the text of devices/NAME/sandbox_policy.txt, or nothing). A device's policy can only add
// calls: where the common policy has conditions it must have some, too, and what leads out of
// the sandbox no device may ask for. Errors: InvalidArgument, naming the line.
absl::StatusOr<std::vector<SyscallRule>> DeviceRules(absl::string_view device_policy);

// The seccomp filter for these rules. What they do not allow notifies the filter's listener
// (SECCOMP_RET_USER_NOTIF) and, without one, fails with ENOSYS; a call of another architecture or
// of x32 kills the process. The process needs no_new_privs. Errors: as DeviceRules(), and as
// seccomp_export_bpf(3).
absl::StatusOr<std::vector<sock_filter>> CompileDevicePolicy(absl::string_view device_policy);

// The further filter of a process whose device has started: what the rules allow at the start only
// fails or kills the process, all else is left to the filter above. Errors: as
// CompileDevicePolicy().
absl::StatusOr<std::vector<sock_filter>> CompileServingPolicy(absl::string_view device_policy);

// The seccomp filter of a vmm whose VM is set up: vmm_policy.txt is allowed, vmm_attacks.txt kills
// the process, all else fails with EPERM. `self`: its pid; only its own threads may be signalled.
// Errors: as seccomp_export_bpf(3).
absl::StatusOr<std::vector<sock_filter>> CompileVmmPolicy(pid_t self);

// The further filter of each vCPU's thread, vcpu_policy.txt: all else fails with EPERM.
absl::StatusOr<std::vector<sock_filter>> CompileVcpuPolicy(pid_t self);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SANDBOX_SECCOMP_POLICY_H_
