#include "vmm/sandbox/seccomp_policy.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::string_view kCommonPolicy =
#include "vmm/sandbox/common_policy.inc"
    ;
constexpr absl::string_view kVmmPolicy =
#include "vmm/sandbox/vmm_policy.inc"
    ;
constexpr absl::string_view kVmmAttacks =
#include "vmm/sandbox/vmm_attacks.inc"
    ;
constexpr absl::string_view kVcpuPolicy =
#include "vmm/sandbox/vcpu_policy.inc"
    ;

// No device policy may ask for these, whatever the conditions: with them a process gets programs,
// processes, executable memory, files by path, other processes' memory, other rights or namespaces.
constexpr absl::string_view kForbidden[] = {
    "clone",
    "clone3",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "mmap",
    "mprotect",
    "pkey_mprotect",
    "personality",
    "modify_ldt",
    "prctl",
    "prlimit64",
    "setrlimit",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_open",
    "pidfd_getfd",
    "open",
    "openat",
    "openat2",
    "creat",
    "open_by_handle_at",
    "open_tree",
    "mount",
    "move_mount",
    "fsopen",
    "umount2",
    "pivot_root",
    "chroot",
    "setns",
    "unshare",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "init_module",
    "finit_module",
    "kexec_load",
    "kexec_file_load",
    "capset",
    "setuid",
    "setgid",
    "setresuid",
    "setresgid",
    "kill",
    "tkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "pidfd_send_signal",
    "io_setup",
    "iopl",
    "ioperm",
};

absl::Status CheckDeviceRule(const SyscallRule& rule, const std::vector<SyscallRule>& common) {
  const auto refuse = [&rule](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("sandbox policy, line ", rule.line, ": ", rule.name, ": ", why));
  };
  if (std::find(std::begin(kForbidden), std::end(kForbidden), rule.name) != std::end(kForbidden)) {
    return refuse("no device may ask for this system call");
  }
  for (const SyscallRule& other : common) {
    if (other.number != rule.number) continue;
    if (other.error != 0) return refuse("for every device this system call fails");
    if (rule.error != 0) return refuse("every device needs this system call: it cannot fail");
    if (!other.conditions.empty() && rule.conditions.empty()) {
      return refuse("needs conditions: it is allowed to no device without");
    }
  }
  return absl::OkStatus();
}

bool IsUnconditional(const SyscallRule& rule) { return rule.conditions.empty(); }

// Whether every call that `narrow` allows is one that `wide` allows.
bool Covers(const SyscallRule& wide, const SyscallRule& narrow) {
  const auto holds = [&narrow](const ArgumentCondition& condition) {
    return std::any_of(narrow.conditions.begin(), narrow.conditions.end(), [&](const auto& other) {
      return condition.argument == other.argument && condition.mask == other.mask &&
             condition.expected == other.expected;
    });
  };
  const bool ends_alike = !wide.start || !narrow.start || wide.later_error == narrow.later_error;
  return wide.number == narrow.number && wide.error == 0 && narrow.error == 0 && ends_alike &&
         std::all_of(wide.conditions.begin(), wide.conditions.end(), holds);
}

// Adds `rule` to those of its system call: either one without conditions, or some with, none of
// which covers another one.
absl::Status Merge(SyscallRule rule, absl::string_view origin, std::vector<SyscallRule>& rules) {
  bool is_covered = false;
  for (SyscallRule& other : rules) {
    if (other.number != rule.number) continue;
    const bool wider = Covers(rule, other), narrower = Covers(other, rule);
    if (wider && narrower) {
      other.start = other.start && rule.start;
      return absl::OkStatus();
    }
    if (narrower && (rule.start || !other.start)) {
      is_covered = true;
      continue;
    }
    // What a wider rule allows at the start ends with the start.
    const bool ends_early = narrower || (wider && rule.start && !other.start);
    if (IsUnconditional(other) || IsUnconditional(rule) || ends_early) {
      return absl::InvalidArgumentError(absl::StrCat(
          origin, ", line ", rule.line, ": \"", rule.text, "\" contradicts \"", other.text, "\""));
    }
  }
  if (is_covered) return absl::OkStatus();
  // Beside being dead weight, a covered rule costs memory: libseccomp 2.5.4 does not free it.
  rules.erase(std::remove_if(rules.begin(), rules.end(),
                             [&rule](const SyscallRule& other) { return Covers(rule, other); }),
              rules.end());
  rules.push_back(std::move(rule));
  return absl::OkStatus();
}

// libseccomp reports negative errno values.
absl::Status Check(int result, absl::string_view what) {
  return result >= 0 ? absl::OkStatus() : bulkhead::ErrnoToStatus(-result, what);
}

// `action`: of a rule that has no errno.
absl::Status AddRule(scmp_filter_ctx filter, const SyscallRule& rule,
                     uint32_t action = SCMP_ACT_ALLOW) {
  std::vector<scmp_arg_cmp> comparisons;
  for (const ArgumentCondition& condition : rule.conditions) {
    comparisons.push_back({.arg = condition.argument,
                           .op = SCMP_CMP_MASKED_EQ,
                           .datum_a = condition.mask,
                           .datum_b = condition.expected});
  }
  if (rule.error != 0) action = SCMP_ACT_ERRNO(static_cast<uint32_t>(rule.error));
  const int result = seccomp_rule_add_exact_array(
      filter, action, rule.number, static_cast<unsigned>(comparisons.size()), comparisons.data());
  if (result == -EEXIST) return absl::OkStatus();  // the same rule twice
  return Check(result, absl::StrCat("seccomp_rule_add of \"", rule.text, "\""));
}

absl::StatusOr<std::vector<sock_filter>> Export(scmp_filter_ctx filter) {
  const UniqueFd file(memfd_create("seccomp_filter", MFD_CLOEXEC));
  if (!file.ok()) return ErrnoToStatus(errno, "memfd_create");
  RETURN_IF_ERROR(Check(seccomp_export_bpf(filter, file.get()), "seccomp_export_bpf"));
  const off_t size = lseek(file.get(), 0, SEEK_END);
  std::vector<sock_filter> program(static_cast<size_t>(std::max<off_t>(size, 0)) /
                                   sizeof(sock_filter));
  if (program.empty() || program.size() > BPF_MAXINSNS ||
      pread(file.get(), program.data(), program.size() * sizeof(sock_filter), 0) != size) {
    return absl::InternalError(absl::StrCat("seccomp_export_bpf: a program of ", size, " bytes"));
  }
  return program;
}

using Filter = std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, void (*)(scmp_filter_ctx)>;

// A filter without rules.
absl::StatusOr<Filter> NewFilter(uint32_t default_action) {
  Filter filter(seccomp_init(default_action), seccomp_release);
  if (filter == nullptr) {
    return absl::UnimplementedError(
        "seccomp_init: this kernel has no SECCOMP_RET_USER_NOTIF: Linux 5.0 or newer is needed");
  }
  RETURN_IF_ERROR(Check(
      seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "badarch"));
  RETURN_IF_ERROR(Check(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimize"));
  return filter;
}

absl::Status AddRules(scmp_filter_ctx filter, absl::string_view text, absl::string_view origin,
                      uint32_t action) {
  ASSIGN_OR_RETURN(const std::vector<SyscallRule> rules, ParsePolicyText(text, origin));
  for (const SyscallRule& rule : rules) RETURN_IF_ERROR(AddRule(filter, rule, action));
  return absl::OkStatus();
}

// tgkill(2) within the process `self`.
absl::Status AllowOwnSignals(scmp_filter_ctx filter, pid_t self) {
  return AddRules(filter, absl::StrCat("tgkill: arg0 == ", self), "tgkill", SCMP_ACT_ALLOW);
}

}  // namespace

absl::StatusOr<std::vector<SyscallRule>> DeviceRules(absl::string_view device_policy) {
  constexpr absl::string_view kCommon = "common_policy.txt";
  constexpr absl::string_view kDevice = "sandbox policy";
  std::vector<SyscallRule> rules;
  ASSIGN_OR_RETURN(const std::vector<SyscallRule> common, ParsePolicyText(kCommonPolicy, kCommon));
  for (const SyscallRule& rule : common) RETURN_IF_ERROR(Merge(rule, kCommon, rules));
  ASSIGN_OR_RETURN(const std::vector<SyscallRule> added, ParsePolicyText(device_policy, kDevice));
  for (const SyscallRule& rule : added) {
    RETURN_IF_ERROR(CheckDeviceRule(rule, common));
    RETURN_IF_ERROR(Merge(rule, kDevice, rules));
  }
  return rules;
}

absl::StatusOr<std::vector<sock_filter>> CompileDevicePolicy(absl::string_view device_policy) {
  ASSIGN_OR_RETURN(const std::vector<SyscallRule> rules, DeviceRules(device_policy));
  ASSIGN_OR_RETURN(const Filter filter, NewFilter(SCMP_ACT_NOTIFY));
  for (const SyscallRule& rule : rules) RETURN_IF_ERROR(AddRule(filter.get(), rule));
  return Export(filter.get());
}

absl::StatusOr<std::vector<sock_filter>> CompileServingPolicy(absl::string_view device_policy) {
  ASSIGN_OR_RETURN(const std::vector<SyscallRule> rules, DeviceRules(device_policy));
  ASSIGN_OR_RETURN(const Filter filter, NewFilter(SCMP_ACT_ALLOW));
  for (SyscallRule rule : rules) {
    if (!rule.start) continue;
    rule.error = rule.later_error;
    RETURN_IF_ERROR(AddRule(filter.get(), rule, SCMP_ACT_KILL_PROCESS));
  }
  return Export(filter.get());
}

absl::StatusOr<std::vector<sock_filter>> CompileVmmPolicy(pid_t self) {
  ASSIGN_OR_RETURN(const Filter filter, NewFilter(SCMP_ACT_ERRNO(EPERM)));
  RETURN_IF_ERROR(AddRules(filter.get(), kVmmPolicy, "vmm_policy.txt", SCMP_ACT_ALLOW));
  RETURN_IF_ERROR(AddRules(filter.get(), kVmmAttacks, "vmm_attacks.txt", SCMP_ACT_KILL_PROCESS));
  RETURN_IF_ERROR(AllowOwnSignals(filter.get(), self));
  return Export(filter.get());
}

absl::StatusOr<std::vector<sock_filter>> CompileVcpuPolicy(pid_t self) {
  ASSIGN_OR_RETURN(const Filter filter, NewFilter(SCMP_ACT_ERRNO(EPERM)));
  RETURN_IF_ERROR(AddRules(filter.get(), kVcpuPolicy, "vcpu_policy.txt", SCMP_ACT_ALLOW));
  RETURN_IF_ERROR(AllowOwnSignals(filter.get(), self));
  return Export(filter.get());
}

}  // namespace bulkhead::vmm
