#ifndef BULKHEAD_PROTO_CONTROL_SOCKET_H_
#define BULKHEAD_PROTO_CONTROL_SOCKET_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

// Where a VM's control socket is unless its configuration says otherwise: what vmm and vmctl must
// agree on to find each other.

namespace bulkhead {

// What a control socket's name adds to that of its VM.
inline constexpr char kControlSocketSuffix[] = ".sock";

// What the choice depends on. The variables may be null.
struct RuntimeEnvironment {
  const char* bulkhead_runtime_dir = nullptr;  // $BULKHEAD_RUNTIME_DIR: that folder and no other
  const char* xdg_runtime_dir = nullptr;  // counts if it is absolute, as its specification says
  uid_t user = 0;
};

// The environment of this process.
RuntimeEnvironment CurrentRuntimeEnvironment();

// Folders in which the VMs of `user` may have their control sockets, whatever the environment of
// their vmm was: /run/bulkhead (root), $XDG_RUNTIME_DIR/bulkhead, /run/user/UID/bulkhead,
// /tmp/bulkhead-UID. None twice.
std::vector<std::string> RuntimeDirectories(const RuntimeEnvironment& environment);

// The folder in which a vmm with this environment has its control socket. For root it is always
// /run/bulkhead, so that it does not matter whether the vmm was started by ssh, sudo or systemd.
// For others $XDG_RUNTIME_DIR/bulkhead, but only if that variable is the user's own (`is_users`;
// after su it is another's), else /tmp/bulkhead-UID.
std::string RuntimeDirectory(const RuntimeEnvironment& environment,
                             absl::FunctionRef<bool(const char* folder)> is_users);

// The same for this process.
std::vector<std::string> RuntimeDirectories();
std::string RuntimeDirectory();

// NAME.sock in `directory`. `vm_name` is valid: it has no '/'.
std::string ControlSocketPath(absl::string_view directory, absl::string_view vm_name);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_CONTROL_SOCKET_H_
