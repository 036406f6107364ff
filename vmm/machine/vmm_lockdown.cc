#include "vmm/machine/vmm_lockdown.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "vmm/launcher/landlock.h"
#include "vmm/machine/device_sandbox.h"
#include "vmm/sandbox/sandbox_layers.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t Bit(int capability) { return uint64_t{1} << capability; }

constexpr char kKvm[] = "/dev/kvm";

constexpr uint64_t kFilePermissions = Bit(CAP_DAC_OVERRIDE) | Bit(CAP_DAC_READ_SEARCH);

absl::StatusOr<uint64_t> PermittedCapabilities() {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[2] = {};
  if (syscall(SYS_capget, &header, sets) != 0) return ErrnoToStatus(errno, "capget");
  return uint64_t{sets[1].permitted} << 32 | sets[0].permitted;
}

absl::Status SetCapabilities(uint64_t effective, uint64_t permitted) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const __user_cap_data_struct sets[2] = {{.effective = static_cast<uint32_t>(effective),
                                           .permitted = static_cast<uint32_t>(permitted),
                                           .inheritable = 0},
                                          {.effective = static_cast<uint32_t>(effective >> 32),
                                           .permitted = static_cast<uint32_t>(permitted >> 32),
                                           .inheritable = 0}};
  if (syscall(SYS_capset, &header, sets) != 0) return ErrnoToStatus(errno, "capset");
  return absl::OkStatus();
}

bool MayAccess(const std::string& path, int mode) {
  return faccessat(AT_FDCWD, path.c_str(), mode, AT_EACCESS) == 0 || errno == ENOENT;
}

// The first file that the VM needs later on and that this thread, as it is, may not open.
std::optional<std::string> InaccessibleFile(const VmSpec& spec,
                                            const std::vector<std::string>& folders) {
  for (const DeviceSpec& device : spec.devices) {
    for (const ResourceSpec& resource : device.resources) {
      if (resource.file == nullptr) continue;
      const int mode = resource.read_only ? R_OK : R_OK | W_OK;
      // By descriptor, as it is opened again for each process.
      if (!MayAccess(absl::StrCat("/proc/self/fd/", resource.file->own_fd()), mode)) {
        return resource.file->path();
      }
    }
  }
  for (const std::string& folder : folders) {
    if (!MayAccess(folder, W_OK | X_OK)) return folder;
  }
  if (!MayAccess(kKvm, R_OK | W_OK)) return kKvm;
  return std::nullopt;
}

absl::Status Lacking(const absl::Status& why, absl::string_view layer) {
  return absl::FailedPreconditionError(absl::StrCat("the vmm itself: layer \"", layer,
                                                    "\" of the sandbox: ", why.message(),
                                                    "; to do without: --sandbox-waive=", layer));
}

// ABI 2: what later ones can forbid, truncation and ioctl(2), goes with an open file, and so would
// bind the device processes that get it.
constexpr uint64_t kRightsOfFiles =
    LandlockRightsOfAbi(2).ruleset.handled_access_fs &
    ~uint64_t{LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR};

// A ruleset that forbids `rights`.
absl::StatusOr<UniqueFd> NewRuleset(uint64_t rights) {
  const int abi = static_cast<int>(
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION));
  const LandlockRuleset attributes = {
      .handled_access_fs = rights & LandlockRightsOfAbi(abi).ruleset.handled_access_fs,
      .handled_access_net = 0,
      .scoped = 0};
  UniqueFd ruleset(static_cast<int>(
      syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes.handled_access_fs), 0)));
  if (!ruleset.ok()) return Lacking(ErrnoToStatus(errno, "landlock_create_ruleset"), "landlock");
  return ruleset;
}

// Allows `rights` to the file `fd`, or in the folder. A file that Landlock does not know (a pipe)
// needs no rule.
void Allow(const UniqueFd& ruleset, int fd, uint64_t rights) {
  const landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = fd};
  syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}
void Allow(const UniqueFd& ruleset, const std::string& path, uint64_t rights) {
  const UniqueFd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (fd.ok()) Allow(ruleset, fd.get(), rights);
}

absl::Status RestrictSelf(const UniqueFd& ruleset) {
  if (syscall(SYS_landlock_restrict_self, ruleset.get(), 0) == 0) return absl::OkStatus();
  return Lacking(ErrnoToStatus(errno, "landlock_restrict_self"), "landlock");
}

absl::Status ProtectFiles(const VmSpec& spec, const std::vector<std::string>& folders) {
  ASSIGN_OR_RETURN(const UniqueFd ruleset, NewRuleset(kRightsOfFiles));
  for (const DeviceSpec& device : spec.devices) {
    for (const ResourceSpec& resource : device.resources) {
      if (resource.file == nullptr || resource.read_only) continue;
      Allow(ruleset, resource.file->own_fd(), LANDLOCK_ACCESS_FS_WRITE_FILE);
    }
  }
  for (const std::string& folder : folders) {
    Allow(ruleset, folder, LANDLOCK_ACCESS_FS_REMOVE_FILE);
  }
  Allow(ruleset, kKvm, LANDLOCK_ACCESS_FS_WRITE_FILE);
  // Standard streams are opened again.
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    Allow(ruleset, fd, LANDLOCK_ACCESS_FS_WRITE_FILE);
  }
  return RestrictSelf(ruleset);
}

// Installs `filter`. Errors: as RestrictSystemCalls().
absl::Status Install(const std::vector<sock_filter>& filter, unsigned flags) {
  const sock_fprog program = {.len = static_cast<unsigned short>(filter.size()),  // NOLINT
                              .filter = const_cast<sock_filter*>(filter.data())};
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);  // NOLINT
  if (result == 0) return absl::OkStatus();
  if (result > 0) {
    return absl::InternalError(
        absl::StrCat("seccomp: thread ", result, " of the vmm has a filter of its own"));
  }
  return Lacking(ErrnoToStatus(errno, "seccomp"), "vmm");
}

}  // namespace

bool IsLockedDown(const VmSpec& spec) {
  return spec.sandbox.has(SandboxLayer::kVmm) &&
         SandboxLayers::InThisBuild().has(SandboxLayer::kVmm);
}

absl::Status DropPrivileges(const VmSpec& spec, const std::vector<std::string>& folders) {
  if (!IsLockedDown(spec)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const uint64_t had, PermittedCapabilities());
  uint64_t kept = 0;
  // The vmm owns the user namespaces of its device processes, which suffices to kill them.
  if (spec.sandbox.has(SandboxLayer::kUid) && !spec.sandbox.has(SandboxLayer::kUser)) {
    kept |= had & Bit(CAP_KILL);
  }
  RETURN_IF_ERROR(SetCapabilities(kept, had));
  if ((had & kFilePermissions) != 0) {
    if (const std::optional<std::string> file = InaccessibleFile(spec, folders); file.has_value()) {
      kept |= had & kFilePermissions;
      LogInfo(absl::StrCat("the vmm keeps the capability to open files of other users: ", *file,
                           " cannot be opened without"));
    }
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  RETURN_IF_ERROR(SetCapabilities(kept, kept));
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoToStatus(errno, "no_new_privs");
  // No process of the same user may trace it or read its memory; it leaves no core file.
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return ErrnoToStatus(errno, "PR_SET_DUMPABLE");
  if (!spec.sandbox.has(SandboxLayer::kLandlock)) return absl::OkStatus();
  return ProtectFiles(spec, folders);
}

absl::Status RestrictSystemCalls() {
  ASSIGN_OR_RETURN(const std::vector<sock_filter> filter, CompileVmmPolicy(getpid()));
  return Install(filter, SECCOMP_FILTER_FLAG_TSYNC);
}

absl::Status SealLauncher(Launcher& launcher, const VmSpec& spec) {
  // Without devices: no process at all.
  if (spec.devices.empty()) return launcher.Seal(SandboxLayers::OfDevices(), 0, 0);
  const ProcessSandbox& first = spec.devices.front().sandbox;
  return launcher.Seal(first.layers, first.uid, CountSandboxUsers(spec));
}

absl::StatusOr<std::function<absl::Status()>> VcpuConfinement(const VmSpec& spec) {
  if (!IsLockedDown(spec)) return nullptr;
  ASSIGN_OR_RETURN(std::vector<sock_filter> compiled, CompileVcpuPolicy(getpid()));
  const auto filter = std::make_shared<const std::vector<sock_filter>>(std::move(compiled));
  if (!spec.sandbox.has(SandboxLayer::kLandlock)) return [filter] { return Install(*filter, 0); };
  ASSIGN_OR_RETURN(UniqueFd no_files, NewRuleset(~uint64_t{0}));
  const auto ruleset = std::make_shared<const UniqueFd>(std::move(no_files));
  return [filter, ruleset] {
    const absl::Status status = RestrictSelf(*ruleset);
    return status.ok() ? Install(*filter, 0) : status;
  };
}

}  // namespace bulkhead::vmm
