// Processes: new ones, programs, other processes, namespaces, rights, priorities and limits.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "integration/escape/attempts.h"

namespace bulkhead::integration {
namespace {

constexpr int kIoPriorityRealTime = 1 << 13;  // ioprio_set(2) has no header
constexpr int kIoPriorityProcess = 1;

// A program that waits for ever: pause() in a loop.
std::string TinyProgram() {
  const unsigned char bytes[] = {
      0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,  // 64 bits, little
                                                                // endian
      2, 0, 62, 0, 1, 0, 0, 0,                                  // an executable for x86-64
      0x78, 0, 0x40, 0, 0, 0, 0, 0,                             // entry point
      0x40, 0, 0, 0, 0, 0, 0, 0,                                // program headers
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0,
      0,                          // PT_LOAD, read and execute
      0, 0, 0, 0, 0, 0, 0, 0,     // of offset 0
      0, 0, 0x40, 0, 0, 0, 0, 0,  // at this address
      0, 0, 0x40, 0, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0,
      0,                                                                     // so many bytes
      0, 0x10, 0, 0, 0, 0, 0, 0, 0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7,  // mov $34,
                                                                             // %eax;
                                                                             // syscall;
                                                                             // jmp to the
                                                                             // begin
  };
  return std::string(reinterpret_cast<const char*>(bytes), sizeof(bytes));
}

void AddNewProcesses(std::vector<Attempt>& attempts) {
  const std::pair<const char*, uint64_t> namespaces[] = {
      {"CLONE_NEWNS", CLONE_NEWNS},   {"CLONE_NEWPID", CLONE_NEWPID},
      {"CLONE_NEWNET", CLONE_NEWNET}, {"CLONE_NEWIPC", CLONE_NEWIPC},
      {"CLONE_NEWUTS", CLONE_NEWUTS}, {"CLONE_NEWCGROUP", CLONE_NEWCGROUP},
  };
  for (const auto& [name, flag] : namespaces) {
    attempts.push_back({absl::StrCat("clone with ", name),
                        kNoCapabilities,
                        {{SYS_clone, {flag | SIGCHLD, 0, 0, 0, 0}}}});
    attempts.push_back(
        {absl::StrCat("unshare of ", name), kNoCapabilities, {{SYS_unshare, {flag}}}});
    attempts.push_back({absl::StrCat("setns with ", name, ", to its own"),
                        kNoCapabilities,
                        {{SYS_pidfd_open, {1, 0}}, {SYS_setns, {ResultOf(0), flag}}}});
  }
  clone_args plain = {};
  plain.exit_signal = SIGCHLD;
  clone_args user = plain;
  user.flags = CLONE_NEWUSER;
  const std::string program = TinyProgram();
  const int at_empty = AT_EMPTY_PATH;
  const Attempt rows[] = {
      {"fork", kInside, {{SYS_fork, {}}}},
      {"vfork", kInside, {{SYS_vfork, {}}}},
      {"clone of a process", kInside, {{SYS_clone, {SIGCHLD, 0, 0, 0, 0}}}},
      {"clone3 of a process", kInside, {{SYS_clone3, {AddressOf(plain), sizeof(plain)}}}},
      {"clone of a sibling", kPidNamespace, {{SYS_clone, {CLONE_PARENT | SIGCHLD, 0, 0, 0, 0}}}},
      {"clone with CLONE_NEWUSER", kChroot, {{SYS_clone, {CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0}}}},
      {"clone3 with CLONE_NEWUSER", kChroot, {{SYS_clone3, {AddressOf(user), sizeof(user)}}}},
      // It has threads.
      {"unshare of CLONE_NEWUSER", kNotPossible, {{SYS_unshare, {CLONE_NEWUSER}}}},
      {"execve of /bin/sh", kEmptyRoot, {{SYS_execve, {"/bin/sh", Zeros(8), Zeros(8)}}}},
      {"execveat of /bin/sh",
       kEmptyRoot,
       {{SYS_execveat, {AT_FDCWD, "/bin/sh", Zeros(8), Zeros(8), 0}}}},
      {"execveat of descriptor 1023",
       kNotPossible,
       {{SYS_execveat, {1023, "", Zeros(8), Zeros(8), at_empty}}}},
      {"execveat of a memory file of its own",
       kInside,
       {{SYS_memfd_create, {"program", MFD_CLOEXEC}},
        {SYS_write, {ResultOf(0), program, program.size()}},
        {SYS_execveat, {ResultOf(0), "", Zeros(8), Zeros(8), at_empty}}}},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
}

void AddOtherProcesses(const Surroundings& around, std::vector<Attempt>& attempts) {
  const std::pair<const char*, pid_t> processes[] = {
      {"the vmm", around.vmm},
      {"the launcher", around.launcher},
      {"init", around.init},
      {"another device", around.sibling},
  };
  const iovec local = {.iov_base = nullptr, .iov_len = 8};
  const Argument here = AddressOf(local, {{offsetof(iovec, iov_base), Zeros(8)}});
  const iovec there = {.iov_base = reinterpret_cast<void*>(around.stack_address), .iov_len = 8};
  siginfo_t info = {};
  info.si_code = SI_QUEUE;
  perf_event_attr event = {};
  event.type = PERF_TYPE_SOFTWARE;
  event.size = sizeof(event);
  event.config = PERF_COUNT_SW_DUMMY;
  event.exclude_kernel = 1;
  event.exclude_hv = 1;
  for (const auto& [name, pid] : processes) {
    const std::string of = absl::StrCat(" of ", name);
    // Signal 0: the same checks, and no signal.
    const Attempt rows[] = {
        {"PTRACE_ATTACH" + of, kPidNamespace, {{SYS_ptrace, {PTRACE_ATTACH, pid, 0, 0}}}},
        {"PTRACE_SEIZE" + of, kPidNamespace, {{SYS_ptrace, {PTRACE_SEIZE, pid, 0, 0}}}},
        {"process_vm_readv" + of,
         kPidNamespace,
         {{SYS_process_vm_readv, {pid, here, 1, AddressOf(there), 1, 0}}}},
        {"process_vm_writev" + of,
         kPidNamespace,
         {{SYS_process_vm_writev, {pid, here, 1, AddressOf(there), 1, 0}}}},
        {"pidfd_open" + of, kPidNamespace, {{SYS_pidfd_open, {pid, 0}}}},
        {"kill" + of, kPidNamespace, {{SYS_kill, {pid, 0}}}},
        {"tgkill (SIGABRT)" + of, kPidNamespace, {{SYS_tgkill, {pid, pid, SIGABRT}}}},
        {"rt_sigqueueinfo" + of, kPidNamespace, {{SYS_rt_sigqueueinfo, {pid, 0, AddressOf(info)}}}},
        {"prlimit64" + of, kPidNamespace, {{SYS_prlimit64, {pid, RLIMIT_NOFILE, 0, Zeros(16)}}}},
    };
    attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
    if (pid != around.vmm) continue;
    const Attempt more[] = {
        {"tkill" + of, kPidNamespace, {{SYS_tkill, {pid, 0}}}},
        {"tgkill" + of, kPidNamespace, {{SYS_tgkill, {pid, pid, 0}}}},
        {"sched_setaffinity" + of,
         kPidNamespace,
         {{SYS_sched_setaffinity, {pid, 8, AddressOf(uint64_t{1})}}}},
        {"sched_getaffinity" + of,
         kPidNamespace,
         {{SYS_sched_getaffinity, {pid, 128, Zeros(128)}}}},
        {"sched_getscheduler" + of, kPidNamespace, {{SYS_sched_getscheduler, {pid}}}},
        {"setpriority" + of, kPidNamespace, {{SYS_setpriority, {PRIO_PROCESS, pid, 19}}}},
        {"ioprio_set" + of, kPidNamespace, {{SYS_ioprio_set, {kIoPriorityProcess, pid, 0}}}},
        {"kcmp" + of, kPidNamespace, {{SYS_kcmp, {pid, pid, KCMP_FILE, 0, 0}}}},
        {"move_pages" + of, kPidNamespace, {{SYS_move_pages, {pid, 0, 0, 0, 0, 0}}}},
        {"migrate_pages" + of, kPidNamespace, {{SYS_migrate_pages, {pid, 64, Zeros(8), Zeros(8)}}}},
        {"getpgid" + of, kPidNamespace, {{SYS_getpgid, {pid}}}},
        {"perf_event_open" + of,
         kPidNamespace,
         {{SYS_perf_event_open, {AddressOf(event), pid, -1, -1, 0}}}},
    };
    attempts.insert(attempts.end(), std::begin(more), std::end(more));
  }
}

void AddRights(std::vector<Attempt>& attempts) {
  const rlimit raised = {.rlim_cur = 8192, .rlim_max = 8192};
  const rlimit none = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  const __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const struct {
    __user_cap_data_struct words[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};
  } all;
  const sched_param highest = {.sched_priority = 99};
  // struct sched_attr of the kernel: deadline scheduling.
  const struct {
    uint32_t size = 48, policy = 6;
    uint64_t flags = 0;
    int32_t nice = 0;
    uint32_t priority = 0;
    uint64_t runtime = 1 << 20, deadline = 1 << 21, period = 1 << 21;
  } deadline;
  const sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog filter = {.len = 1, .filter = nullptr};
  const Argument allows_all = AddressOf(filter, {{offsetof(sock_fprog, filter), AddressOf(allow)}});
  const uint32_t group = 0;
  const Attempt rows[] = {
      {"PTRACE_TRACEME", kInside, {{SYS_ptrace, {PTRACE_TRACEME, 0, 0, 0}}}},
      {"pidfd_open of itself", kInside, {{SYS_pidfd_open, {1, 0}}}},
      {"setuid", kOwnUser, {{SYS_setuid, {0}}}},
      {"setgid", kOwnUser, {{SYS_setgid, {0}}}},
      {"setresuid", kOwnUser, {{SYS_setresuid, {0, 0, 0}}}},
      {"setresgid", kOwnUser, {{SYS_setresgid, {0, 0, 0}}}},
      {"setgroups", kOtherUser, {{SYS_setgroups, {1, AddressOf(group)}}}},
      {"capset", kNoCapabilities, {{SYS_capset, {AddressOf(header), AddressOf(all)}}}},
      {"PR_CAP_AMBIENT_RAISE",
       kNoCapabilities,
       {{SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0}}}},
      {"PR_SET_SECUREBITS", kNoCapabilities, {{SYS_prctl, {PR_SET_SECUREBITS, 0, 0, 0, 0}}}},
      {"PR_SET_KEEPCAPS", kNoCapabilities, {{SYS_prctl, {PR_SET_KEEPCAPS, 1, 0, 0, 0}}}},
      {"PR_SET_NO_NEW_PRIVS 0", kNotPossible, {{SYS_prctl, {PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0}}}},
      {"PR_SET_MM", kNoCapabilities, {{SYS_prctl, {PR_SET_MM, PR_SET_MM_BRK, 0, 0, 0}}}},
      {"PR_SET_PDEATHSIG 0", kInside, {{SYS_prctl, {PR_SET_PDEATHSIG, 0, 0, 0, 0}}}},
      {"PR_SET_DUMPABLE 1", kInside, {{SYS_prctl, {PR_SET_DUMPABLE, 1, 0, 0, 0}}}},
      {"PR_SET_PTRACER", kInside, {{SYS_prctl, {PR_SET_PTRACER, -1, 0, 0, 0}}}},
      {"PR_SET_SECCOMP",
       kInside,
       {{SYS_prctl, {PR_SET_SECCOMP, SECCOMP_MODE_FILTER, allows_all, 0, 0}}}},
      {"seccomp", kInside, {{SYS_seccomp, {SECCOMP_SET_MODE_FILTER, 0, allows_all}}}},
      {"personality", kInside, {{SYS_personality, {READ_IMPLIES_EXEC}}}},
      {"prlimit64, to raise", kLimits, {{SYS_prlimit64, {0, RLIMIT_NOFILE, AddressOf(raised), 0}}}},
      {"setrlimit, to raise", kLimits, {{SYS_setrlimit, {RLIMIT_NOFILE, AddressOf(raised)}}}},
      {"setrlimit of processes", kLimits, {{SYS_setrlimit, {RLIMIT_NPROC, AddressOf(none)}}}},
      {"setrlimit of core files", kLimits, {{SYS_setrlimit, {RLIMIT_CORE, AddressOf(none)}}}},
      {"setrlimit of memory", kLimits, {{SYS_setrlimit, {RLIMIT_AS, AddressOf(none)}}}},
      {"sched_setscheduler",
       kLimits,
       {{SYS_sched_setscheduler, {0, SCHED_FIFO, AddressOf(highest)}}}},
      {"sched_setattr", kLimits, {{SYS_sched_setattr, {0, AddressOf(deadline), 0}}}},
      {"setpriority -20", kLimits, {{SYS_setpriority, {PRIO_PROCESS, 0, -20}}}},
      {"ioprio_set to real time",
       kNoCapabilities,
       {{SYS_ioprio_set, {kIoPriorityProcess, 0, kIoPriorityRealTime}}}},
      {"mlockall", kInside, {{SYS_mlockall, {MCL_CURRENT | MCL_FUTURE}}}},
  };
  attempts.insert(attempts.end(), std::begin(rows), std::end(rows));
}

}  // namespace

void AddProcessAttempts(const Surroundings& around, std::vector<Attempt>& attempts) {
  AddNewProcesses(attempts);
  AddOtherProcesses(around, attempts);
  AddRights(attempts);
}

}  // namespace bulkhead::integration
