#ifndef BULKHEAD_VMM_LAUNCHER_LAUNCH_MESSAGE_H_
#define BULKHEAD_VMM_LAUNCHER_LAUNCH_MESSAGE_H_

#include <stddef.h>
#include <stdint.h>

namespace bulkhead::vmm {

// The packets between the vmm and its launcher: one program in two processes, so plain structs. The
// launcher allocates nothing.

// From the vmm. After it come `filter_instructions` of sock_filter and the strings, each with its
// terminating zero: the arguments, then the environment. With it come the descriptors: the
// launch's status socket, the binary, the folder of the control group if it has one, and those of
// the process.
struct LaunchRequest {
  uint32_t layers = 0;  // SandboxLayers
  uint32_t uid = 0;     // of the process
  uint32_t gid = 0;
  uint32_t filter_instructions = 0;
  uint32_t arguments = 0;
  uint32_t environment = 0;
  uint32_t descriptors = 0;  // of the process
  uint32_t is_script = 0;
  uint32_t has_cgroup = 0;
  uint64_t max_address_space_bytes = 0;
};
// Also from the vmm, once, before the first LaunchRequest, whose size differs: from now on each
// process must have these layers, and with the layer "uid" one of these users.
struct SealRequest {
  uint32_t layers = 0;
  uint32_t first_uid = 0;
  uint32_t uids = 0;
};
inline constexpr size_t kMaxLaunchBytes = 128 * 1024;
inline constexpr size_t kMaxLaunchStrings = 1024;
inline constexpr size_t kMaxLaunchDescriptors = 16;

// On a launch's status socket, from the launcher first: the process was made, and its pidfd comes
// along, or it was not. Then from the process: it is confined and runs its program next, and the
// listener of its seccomp filter comes along if it has one; or what it failed in. The program's
// start closes the socket.
struct LaunchReport {
  int32_t error = 0;    // errno; 0: none
  uint32_t layers = 0;  // SandboxLayers that `error` is of, which the host lacks; 0: of none
  int32_t pid = 0;      // in the PID namespace of the vmm; 0: unknown
  char call[36] = "";   // that failed
};

// From the vmm to init, over the lifeline: what to remove when the vmm is dead. After it come
// names, each with its terminating zero; with it their folder (O_PATH) and, of control groups,
// perhaps cgroup.procs of the one that the vmm was started in.
struct LeftoverRequest {
  enum Kind : uint32_t {
    kSocket,  // the file with this inode
    kGroups,  // the first one is the vmm's own
    kSeal,    // from now on nothing more is accepted
  };
  uint32_t kind = kSeal;
  uint64_t device = 0;
  uint64_t inode = 0;
};
inline constexpr size_t kMaxLeftoverBytes = 16 * 1024;

// From the process that makes the launcher, once.
struct LauncherReport {
  int32_t error = 0;
  char call[32] = "";
  int32_t pid = 0;  // of the process whose pidfd comes along
  uint32_t has_pid_namespace = 0;
  uint32_t has_user_namespace = 0;
  int32_t obstacle = 0;  // errno: why it has no PID namespace
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LAUNCHER_LAUNCH_MESSAGE_H_
