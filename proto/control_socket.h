#ifndef BULKHEAD_PROTO_CONTROL_SOCKET_H_
#define BULKHEAD_PROTO_CONTROL_SOCKET_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

// The default place of a VM's control socket, by which vmctl finds the vmm.

namespace bulkhead {

// A control socket is named after its VM, with this suffix.
inline constexpr char kControlSocketSuffix[] = ".sock";

// The input of the choice. Unset variables are null.
struct RuntimeEnvironment {
  const char* bulkhead_runtime_dir = nullptr;  // $BULKHEAD_RUNTIME_DIR: overrides all else
  const char* xdg_runtime_dir = nullptr;       // ignored unless it is absolute, as specified
  uid_t user = 0;
};

// The environment of this process.
RuntimeEnvironment CurrentRuntimeEnvironment();

// All folders that may hold control sockets of the user's VMs, whatever environment each vmm was
// started with:
// /run/bulkhead (root), $XDG_RUNTIME_DIR/bulkhead, /run/user/UID/bulkhead, /tmp/bulkhead-UID. No
// duplicates.
std::vector<std::string> RuntimeDirectories(const RuntimeEnvironment& environment);

// The folder for the control socket of a vmm with this environment. For root: always /run/bulkhead,
// so it does not matter whether ssh, sudo or systemd started the vmm. For others:
// $XDG_RUNTIME_DIR/bulkhead if that folder belongs to the user (`is_users`; after su it is another
// user's), else /tmp/bulkhead-UID.
std::string RuntimeDirectory(const RuntimeEnvironment& environment,
                             absl::FunctionRef<bool(const char* folder)> is_users);

// The same for the environment of this process.
std::vector<std::string> RuntimeDirectories();
std::string RuntimeDirectory();

// NAME.sock in `directory`. `vm_name` is valid: it has no '/'.
std::string ControlSocketPath(absl::string_view directory, absl::string_view vm_name);
// Whether a socket at `path` would be taken for the control socket of a VM in `directory`.
bool IsControlSocketPath(absl::string_view directory, absl::string_view path);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_CONTROL_SOCKET_H_
