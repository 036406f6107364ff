#ifndef BULKHEAD_VMM_LAUNCHER_LANDLOCK_H_
#define BULKHEAD_VMM_LAUNCHER_LANDLOCK_H_

#include <errno.h>
#include <linux/landlock.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace bulkhead::vmm {

// The kernel's struct landlock_ruleset_attr as of ABI 6; Debian 12's header has ABI 2.
struct LandlockRuleset {
  uint64_t handled_access_fs;
  uint64_t handled_access_net;
  uint64_t scoped;
};

// All that the kernel's Landlock can forbid.
struct LandlockRights {
  LandlockRuleset ruleset;
  size_t ruleset_bytes;  // of the struct of that kernel
};
inline constexpr LandlockRights LandlockRightsOfAbi(int abi) {
  int fs_rights = 13;         // landlock(7): each ABI's number of file system rights
  if (abi >= 2) ++fs_rights;  // refer
  if (abi >= 3) ++fs_rights;  // truncate
  if (abi >= 5) ++fs_rights;  // ioctl on devices
  LandlockRights rights = {};
  rights.ruleset.handled_access_fs = (uint64_t{1} << fs_rights) - 1;
  rights.ruleset_bytes = sizeof(uint64_t);
  if (abi >= 4) {
    rights.ruleset.handled_access_net = 3;  // bind and connect of TCP
    rights.ruleset_bytes = 2 * sizeof(uint64_t);
  }
  if (abi >= 6) {
    rights.ruleset.scoped = 3;  // abstract unix sockets, signals
    rights.ruleset_bytes = 3 * sizeof(uint64_t);
  }
  return rights;
}

// Takes from this process all that Landlock can take, for good, but that it may execute the open
// file `program` (O_PATH suffices). The process must have no_new_privs. Makes system calls only.
// Returns 0, or -1 with errno; EOPNOTSUPP, ENOSYS: this kernel has no Landlock.
inline int ForbidByLandlock(int program) {
  const int abi = static_cast<int>(
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION));
  if (abi < 0) return -1;
  const LandlockRights rights = LandlockRightsOfAbi(abi);
  const int ruleset = static_cast<int>(
      syscall(SYS_landlock_create_ruleset, &rights.ruleset, rights.ruleset_bytes, 0));
  if (ruleset < 0) return -1;
  const landlock_path_beneath_attr may_execute = {
      // execve(2) opens the file for reading.
      .allowed_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE,
      .parent_fd = program};
  int result = static_cast<int>(
      syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &may_execute, 0));
  if (result == 0) result = static_cast<int>(syscall(SYS_landlock_restrict_self, ruleset, 0));
  const int error = errno;
  close(ruleset);
  errno = error;
  return result;
}

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LAUNCHER_LANDLOCK_H_
