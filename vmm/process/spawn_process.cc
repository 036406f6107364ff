#include "vmm/process/spawn_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/argument_pointers.h"
#include "base/errno_status.h"
#include "base/original_limits.h"
#include "base/sheltered_fd.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

// Marks code that runs in the new process while it shares the memory of this one: a sanitizer
// would attribute its accesses to this thread.
#define BULKHEAD_NOT_SANITIZED __attribute__((no_sanitize("thread", "address")))

// clone(2) under glibc's other name for it. ThreadSanitizer intercepts the usual name. It would
// treat the new process as the child of a fork and reset the state of the shared memory.
extern "C" int __clone(int (*function)(void*), void* stack, int flags, void* argument,
                       ...);  // NOLINT

namespace bulkhead::vmm {
namespace {

constexpr size_t kStackBytes = 64 * 1024;

// What the new process needs before its program runs. The old process prepares it: until the
// program runs both share their memory, so the new one must not allocate.
struct Launch {
  int binary = -1;
  bool shares_descriptors = false;  // until Prepare()
  const int* descriptors = nullptr;
  size_t descriptor_count = 0;
  char* const* argv = nullptr;
  char* const* envp = nullptr;
  // The pid of this process in /proc's namespace; 0: unknown.
  pid_t parent = 0;
  const OriginalLimits* limits = nullptr;
  // Lines for /proc/self/uid_map and gid_map. Null: no user namespace.
  const char* uid_map = nullptr;
  const char* gid_map = nullptr;
  // Results.
  const char* failed_call = nullptr;
  int error = 0;
  bool isolated = false;  // the namespaces are set up: a failure is not theirs
};

// Raw system calls only: a sanitizer's interceptors would attribute them to the old process.
BULKHEAD_NOT_SANITIZED bool Try(Launch& launch, const char* call, int64_t result) {
  if (result >= 0) return true;
  launch.failed_call = call;
  launch.error = errno;
  return false;
}

BULKHEAD_NOT_SANITIZED bool ResetSignals(Launch& launch) {
  // The vmm's handlers must not run here, and a device may need signals that the vmm ignores.
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) {
    struct {
      void* handler;
      unsigned long flags;  // NOLINT(google-runtime-int): the kernel's type
      void* restorer;
      uint64_t mask;
    } defaults = {};
    // The kernel refuses SIGKILL and SIGSTOP, which have their defaults anyway.
    syscall(SYS_rt_sigaction, signal_number, &defaults, nullptr, sizeof(uint64_t));
  }
  const uint64_t none = 0;
  return Try(launch, "rt_sigprocmask",
             syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof(none)));
}

// Restores the limits that the vmm changed for itself only. Without /proc it has not changed the
// score.
BULKHEAD_NOT_SANITIZED bool RestoreLimits(Launch& launch) {
  const OriginalLimits& limits = *launch.limits;
  size_t length = 0;
  while (limits.oom_score_adj[length] != '\0') ++length;
  if (length != 0) {
    const int64_t file = syscall(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY);
    if (file >= 0) {
      syscall(SYS_write, file, limits.oom_score_adj, length);
      syscall(SYS_close, file);
    }
  }
  return !limits.raised_open_files ||
         Try(launch, "prlimit",
             syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limits.open_files, nullptr));
}

BULKHEAD_NOT_SANITIZED bool WriteFile(Launch& launch, const char* path, const char* text) {
  const int64_t fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (!Try(launch, path, fd)) return false;
  size_t size = 0;
  while (text[size] != '\0') ++size;
  const bool written = Try(launch, path, syscall(SYS_write, fd, text, size));
  syscall(SYS_close, fd);
  return written;
}

// The process keeps its user and group: its access to files does not change.
BULKHEAD_NOT_SANITIZED bool MapUser(Launch& launch) {
  return launch.uid_map == nullptr || (WriteFile(launch, "/proc/self/setgroups", "deny") &&
                                       WriteFile(launch, "/proc/self/gid_map", launch.gid_map) &&
                                       WriteFile(launch, "/proc/self/uid_map", launch.uid_map));
}

// The parent's pid from /proc/self/stat; 0: unknown. getppid() gives 0 if the parent is outside the
// PID namespace.
BULKHEAD_NOT_SANITIZED pid_t ParentByProc() {
  const int64_t fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[128];
  const int64_t size = syscall(SYS_read, fd, text, sizeof(text));
  syscall(SYS_close, fd);
  // "123 (name) S 122 ...": the name may contain parentheses, the text after it does not.
  int64_t i = size;
  while (i > 0 && text[i - 1] != ')') --i;
  pid_t parent = 0;
  for (i += 3; i < size && text[i] >= '0' && text[i] <= '9'; ++i) {
    parent = parent * 10 + (text[i] - '0');
  }
  return parent;
}

BULKHEAD_NOT_SANITIZED void ForbidCoreDumps() {
  // base/core_dumps.h explains why. Fails if the hard limit is 0 already; that header says what
  // happens then.
  const rlimit64 limit = {.rlim_cur = 1, .rlim_max = 1};
  syscall(SYS_prlimit64, 0, RLIMIT_CORE, &limit, nullptr);
}

BULKHEAD_NOT_SANITIZED bool Prepare(Launch& launch) {
  // Unshares the descriptor table without copying sheltered descriptors.
  if (launch.shares_descriptors &&
      !Try(launch, "close_range",
           syscall(SYS_close_range, kFirstShelteredFd, ~0u, CLOSE_RANGE_UNSHARE))) {
    return false;
  }
  if (!MapUser(launch)) return false;
  launch.isolated = true;
  if (!Try(launch, "prctl", syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))) return false;
  if (launch.parent != 0) {
    const pid_t parent = ParentByProc();
    if (parent != 0 && parent != launch.parent) return false;  // it died before the prctl above
  }
  ForbidCoreDumps();
  if (!Try(launch, "setsid", syscall(SYS_setsid))) return false;
  if (!RestoreLimits(launch)) return false;
  for (size_t i = 0; i < launch.descriptor_count; ++i) {
    if (!Try(launch, "dup3", syscall(SYS_dup3, launch.descriptors[i], i, 0))) return false;
  }
  // Close-on-exec, so that the binary's descriptor works until execve().
  if (!Try(launch, "close_range",
           syscall(SYS_close_range, launch.descriptor_count, ~0u, CLOSE_RANGE_CLOEXEC))) {
    return false;
  }
  return ResetSignals(launch);
}

BULKHEAD_NOT_SANITIZED int RunChild(void* argument) {
  Launch& launch = *static_cast<Launch*>(argument);
  if (Prepare(launch)) {
    Try(launch, "execve",
        syscall(SYS_execveat, launch.binary, "", launch.argv, launch.envp, AT_EMPTY_PATH));
  }
  syscall(SYS_exit_group, 127);
  return 127;
}

// Copies `fd` above the numbers that the new process will have: a lower one could be overwritten
// before it is duplicated.
absl::StatusOr<UniqueFd> CopyAbove(int fd, size_t minimum) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, static_cast<int>(minimum)));
  if (!copy.ok()) return ErrnoToStatus(errno, "F_DUPFD_CLOEXEC");
  return copy;
}

// The pid of this process in /proc's PID namespace; 0: there is no /proc.
pid_t OwnPidInProc() {
  char text[32];
  const ssize_t size = readlink("/proc/self", text, sizeof(text));
  pid_t pid = 0;
  if (size <= 0 || !absl::SimpleAtoi(absl::string_view(text, static_cast<size_t>(size)), &pid)) {
    return 0;
  }
  return pid;
}

// True if `error` means that the host forbids a namespace, false for a temporary shortage. ENOSPC,
// EUSERS: the sysctls user.max_*_namespaces are 0, or used up.
bool IsForbidden(int error) {
  return error == EPERM || error == EACCES || error == EINVAL || error == ENOSYS ||
         error == ENOSPC || error == EUSERS || error == ENOENT || error == EROFS;
}

}  // namespace

absl::StatusOr<SpawnedProcess> ProcessSpawner::Spawn(const ProcessSpec& spec) {
  while (true) {
    Isolation tried;
    {
      absl::MutexLock lock(&mutex_);
      tried = isolation_;
    }
    bool forbidden = false;
    absl::StatusOr<PidFd> process = SpawnInside(spec, tried, forbidden);
    absl::MutexLock lock(&mutex_);
    if (process.ok()) {
      settled_ = true;
      return SpawnedProcess{*std::move(process), tried};
    }
    if (tried != isolation_) continue;  // another thread has lowered it
    if (!forbidden || settled_ || tried == Isolation::kNone) return process.status();
    obstacle_ = process.status();
    isolation_ =
        tried == Isolation::kPidNamespace ? Isolation::kUserAndPidNamespace : Isolation::kNone;
  }
}

absl::Status ProcessSpawner::obstacle() const {
  absl::MutexLock lock(&mutex_);
  return obstacle_;
}

absl::StatusOr<PidFd> ProcessSpawner::SpawnInside(const ProcessSpec& spec, Isolation isolation,
                                                  bool& forbidden) {
  std::vector<int> originals = spec.descriptors;
  // A script's interpreter opens the script by this number.
  if (spec.binary.is_script()) originals.push_back(spec.binary.fd());
  const size_t count = originals.size();
  ASSIGN_OR_RETURN(const UniqueFd binary, CopyAbove(spec.binary.fd(), count));
  std::vector<UniqueFd> copies;
  std::vector<int> descriptors;
  for (const int fd : originals) {
    ASSIGN_OR_RETURN(UniqueFd copy, CopyAbove(fd, count));
    descriptors.push_back(copy.get());
    copies.push_back(std::move(copy));
  }
  std::vector<std::string> arguments = {spec.binary.path()};
  arguments.insert(arguments.end(), spec.args.begin(), spec.args.end());
  const bool none_sheltered =
      binary.get() < kFirstShelteredFd &&
      std::all_of(
          descriptors.begin(), descriptors.end(), [](int fd) { return fd < kFirstShelteredFd; });
  const std::vector<char*> argv = ArgumentPointers(arguments);
  const std::vector<char*> envp = ArgumentPointers(spec.environment);
  const std::string uid_map = absl::StrCat(geteuid(), " ", geteuid(), " 1");
  const std::string gid_map = absl::StrCat(getegid(), " ", getegid(), " 1");
  const bool is_script = spec.binary.is_script();
  Launch launch = {.binary = is_script ? static_cast<int>(count) - 1 : binary.get(),
                   .shares_descriptors = none_sheltered,
                   .descriptors = descriptors.data(),
                   .descriptor_count = count,
                   .argv = argv.data(),
                   .envp = envp.data(),
                   .parent = OwnPidInProc(),
                   .limits = &GetOriginalLimits()};
  int flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD;
  if (launch.shares_descriptors) flags |= CLONE_FILES;
  if (isolation != Isolation::kNone) flags |= CLONE_NEWPID;
  if (isolation == Isolation::kUserAndPidNamespace) {
    flags |= CLONE_NEWUSER;
    launch.uid_map = uid_map.c_str();
    launch.gid_map = gid_map.c_str();
  }

  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return ErrnoToStatus(errno, "mmap of a stack");
  // A signal handler must not run in the new process while both share their memory.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int pid_fd = -1;
  // CLONE_VFORK: this thread continues when the new program runs or the process has ended.
  const pid_t pid =
      __clone(RunChild, static_cast<char*>(stack) + kStackBytes, flags, &launch, &pid_fd);
  const int clone_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  munmap(stack, kStackBytes);
  if (pid < 0) {
    forbidden = IsForbidden(clone_error);
    return ErrnoToStatus(clone_error, "clone");
  }
  PidFd process(UniqueFd(pid_fd), pid);
  if (launch.failed_call != nullptr) {
    process.Wait(absl::Seconds(1)).status().IgnoreError();  // it has ended: reap it
    forbidden = !launch.isolated && IsForbidden(launch.error);
    return ErrnoToStatus(launch.error,
                         absl::StrCat(launch.failed_call, " of ", spec.binary.path()));
  }
  return process;
}

}  // namespace bulkhead::vmm
