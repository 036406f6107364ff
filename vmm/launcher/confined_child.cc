#include "vmm/launcher/confined_child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/send_packet.h"
#include "vmm/launcher/landlock.h"
#include "vmm/sandbox/sandbox_descriptors.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {
namespace {

// Open files, the limit of the layer "rlimits": enough for a device with as many interrupts as PCI
// allows (2048) and doorbells as the vmm does, one each.
constexpr rlim_t kMaxOpenFiles = 4096;
// Processes and threads. A device has about ten threads.
constexpr rlim_t kMaxThreads = 64;
// Above the numbers that the launcher uses and that the process gets, below kBinaryFd.
constexpr int kCopiesFrom = 512;
static_assert(kMaxLaunchDescriptors + 1 < kCopiesFrom);

// What failed, and of which layer.
struct Failure {
  const char* call = nullptr;
  uint32_t layer = 0;
};

// Makes the steps' conditions short: `false` after a failure.
class Steps {
 public:
  // `open_files`: the inherited soft limit.
  Steps(const ConfinedChild& child, rlim_t open_files, Failure& failure)
      : child_(child), layers_(child.request.layers), open_files_(open_files), failure_(failure) {}

  bool All();
  // Installs the seccomp filter; the last step. `listener`: see seccomp_unotify(2).
  bool Filter(int& listener);

 private:
  bool has(SandboxLayer layer) const { return layers_.has(layer); }
  bool Try(const char* call, int64_t result, uint32_t layer = 0) {
    if (result >= 0) return true;
    failure_ = {.call = call, .layer = layer};
    return false;
  }
  bool Try(SandboxLayer layer, const char* call, int64_t result) {
    return Try(call, result, static_cast<uint32_t>(layer));
  }
  bool AwaitGo();
  bool PlaceDescriptors();
  bool Limit(SandboxLayer layer, __rlimit_resource resource, rlim_t limit);
  bool SetLimits();
  bool ResetSignals();
  bool BecomeUser();
  bool DropCapabilities();

  const ConfinedChild& child_;
  const SandboxLayers layers_;
  const rlim_t open_files_;
  Failure& failure_;
};

bool Steps::AwaitGo() {
  char byte;
  ssize_t n;
  do {
    n = read(child_.go, &byte, 1);
  } while (n < 0 && errno == EINTR);
  // The launcher has reported what failed, or is dead.
  if (n != 1) _exit(127);
  return true;
}

bool Steps::PlaceDescriptors() {
  // First out of the way of the final numbers.
  for (uint32_t i = 0; i < child_.request.descriptors; ++i) {
    if (!Try("dup3", dup3(child_.descriptors[i], kCopiesFrom + static_cast<int>(i), O_CLOEXEC))) {
      return false;
    }
  }
  uint32_t count = child_.request.descriptors;
  for (uint32_t i = 0; i < count; ++i) {
    const int copy = kCopiesFrom + static_cast<int>(i);
    if (!Try("dup3", dup3(copy, static_cast<int>(i), 0))) return false;
  }
  // A script's interpreter opens the script by this number.
  if (child_.request.is_script != 0) {
    if (!Try("dup3", dup3(kBinaryFd, static_cast<int>(count), 0))) return false;
    ++count;
  }
  return Try("close_range", syscall(SYS_close_range, count, ~0u, CLOSE_RANGE_CLOEXEC));
}

bool Steps::Limit(SandboxLayer layer, __rlimit_resource resource, rlim_t limit) {
  rlimit now;
  getrlimit(resource, &now);
  limit = std::min(limit, now.rlim_max);
  const rlimit wanted = {.rlim_cur = limit, .rlim_max = limit};
  return Try(layer, "setrlimit", setrlimit(resource, &wanted));
}

bool Steps::SetLimits() {
  // base/core_dumps.h explains why. Fails if the hard limit is 0; that header says what then.
  const rlimit one_byte = {.rlim_cur = 1, .rlim_max = 1};
  setrlimit(RLIMIT_CORE, &one_byte);
  if (!has(SandboxLayer::kRlimits)) {
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = std::min(std::max(open_files_, kMaxOpenFiles), files.rlim_max);
    return Try("setrlimit", setrlimit(RLIMIT_NOFILE, &files));
  }
  const SandboxLayer layer = SandboxLayer::kRlimits;
  // Counted for each user of a user namespace: otherwise the caller's other processes count, too.
  if ((has(SandboxLayer::kUid) || has(SandboxLayer::kUser)) &&
      !Limit(layer, RLIMIT_NPROC, kMaxThreads)) {
    return false;
  }
  return Limit(layer, RLIMIT_NOFILE, kMaxOpenFiles) &&
         Limit(layer, RLIMIT_AS, child_.request.max_address_space_bytes) &&
         Limit(layer, RLIMIT_MSGQUEUE, 0) && Limit(layer, RLIMIT_NICE, 0) &&
         Limit(layer, RLIMIT_RTPRIO, 0);
}

bool Steps::ResetSignals() {
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) {
    // Not signal(3), which refuses those that the C library uses. The kernel refuses SIGKILL and
    // SIGSTOP, which have their defaults anyway.
    struct {
      void* handler;
      unsigned long flags;  // NOLINT(google-runtime-int): the kernel's type
      void* restorer;
      uint64_t mask;
    } defaults = {};
    syscall(SYS_rt_sigaction, signal_number, &defaults, nullptr, sizeof(uint64_t));
  }
  sigset_t none;
  sigemptyset(&none);
  return Try("sigprocmask", sigprocmask(SIG_SETMASK, &none, nullptr));
}

bool Steps::BecomeUser() {
  const uid_t uid = child_.request.uid;
  const gid_t gid = child_.request.gid;
  if (!has(SandboxLayer::kUid)) {
    // In a user namespace only this user and group exist, so there is nothing to give up.
    return true;
  }
  const SandboxLayer layer = SandboxLayer::kUid;
  return Try(layer, "setgroups", syscall(SYS_setgroups, 0, nullptr)) &&
         Try(layer, "setresgid", syscall(SYS_setresgid, gid, gid, gid)) &&
         Try(layer, "setresuid", syscall(SYS_setresuid, uid, uid, uid));
}

bool Steps::DropCapabilities() {
  if (!has(SandboxLayer::kCaps)) return true;
  const SandboxLayer layer = SandboxLayer::kCaps;
  int capability = 0;
  while (prctl(PR_CAPBSET_DROP, capability) == 0) ++capability;
  // EINVAL: there is no such capability, those before are dropped. Without a user namespace an
  // ordinary user has none to drop (EPERM).
  if (errno != EINVAL && errno != EPERM) return Try(layer, "PR_CAPBSET_DROP", -1);
  const int bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                   SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                   SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
  if (prctl(PR_SET_SECUREBITS, bits) != 0 && errno != EPERM) {
    return Try(layer, "PR_SET_SECUREBITS", -1);
  }
  return true;
}

bool Steps::All() {
  if (!AwaitGo()) return false;
  // The parent is the vmm, whose main thread made the launcher.
  if (!Try("PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGKILL))) return false;
  if (!Try("setsid", setsid())) return false;
  // A process in a chroot cannot make user namespaces, in which it would have capabilities.
  if (has(SandboxLayer::kMount) && (!Try(SandboxLayer::kMount, "chroot", chroot("/chroot")) ||
                                    !Try(SandboxLayer::kMount, "chdir", chdir("/")))) {
    return false;
  }
  if (!PlaceDescriptors()) return false;
  if (!ResetSignals()) return false;
  // Capabilities keep their effect until capset(2) below: the bounding set is of execve(2).
  if (!DropCapabilities() || !BecomeUser()) return false;
  if (has(SandboxLayer::kCaps)) {
    __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    const __user_cap_data_struct none[2] = {};
    if (!Try(SandboxLayer::kCaps, "capset", syscall(SYS_capset, &header, none))) return false;
  }
  // Also for a filter and for Landlock, which need it.
  if (has(SandboxLayer::kCaps) || has(SandboxLayer::kSeccomp) || has(SandboxLayer::kLandlock)) {
    if (!Try(SandboxLayer::kCaps, "no_new_privs", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))) {
      return false;
    }
  }
  // By a change of the user the kernel takes it away.
  if (!Try("PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGKILL))) return false;
  if (has(SandboxLayer::kLandlock) &&
      !Try(SandboxLayer::kLandlock, "landlock", ForbidByLandlock(kBinaryFd))) {
    return false;
  }
  return SetLimits();
}

bool Steps::Filter(int& listener) {
  listener = -1;
  if (!has(SandboxLayer::kSeccomp)) return true;
  const sock_fprog program = {
      .len = static_cast<unsigned short>(child_.request.filter_instructions),  // NOLINT: theirs
      .filter = const_cast<sock_filter*>(child_.filter)};
  const int64_t result =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
  listener = static_cast<int>(result);
  return Try(SandboxLayer::kSeccomp, "seccomp", result);
}

}  // namespace

void RunConfinedChild(const ConfinedChild& received) {
  // What later steps use must not be overwritten when the descriptors get their numbers.
  ConfinedChild child = received;
  rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  const rlimit raised = {.rlim_cur = files.rlim_max, .rlim_max = files.rlim_max};
  setrlimit(RLIMIT_NOFILE, &raised);
  LaunchReport report;
  const auto fail = [&child, &report](const char* call, uint32_t layer) {
    report.error = errno;
    report.layers = layer;
    strncpy(report.call, call, sizeof(report.call) - 1);
    SendPacket(child.status, &report, sizeof(report), -1);
    _exit(127);
  };
  const int status = dup3(child.status, kBinaryFd - 1, O_CLOEXEC);
  if (status < 0 || dup3(child.binary, kBinaryFd, O_CLOEXEC) < 0) {
    fail("dup3 (the hard limit of open files must be 1024 or more)", 0);
  }
  child.status = status;
  Failure failure;
  Steps steps(child, files.rlim_cur, failure);
  int listener = -1;
  if (!steps.All() || !steps.Filter(listener)) fail(failure.call, failure.layer);
  if (!SendPacket(child.status, &report, sizeof(report), listener)) _exit(127);
  // A script's interpreter could not open a descriptor that the call closes.
  const int program =
      child.request.is_script != 0 ? static_cast<int>(child.request.descriptors) : kBinaryFd;
  syscall(SYS_execveat, program, "", child.argv, child.envp, AT_EMPTY_PATH);
  fail("execve", 0);
  __builtin_unreachable();
}

}  // namespace bulkhead::vmm
