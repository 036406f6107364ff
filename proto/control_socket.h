#ifndef BULKHEAD_PROTO_CONTROL_SOCKET_H_
#define BULKHEAD_PROTO_CONTROL_SOCKET_H_

#include <sys/types.h>

#include <string>

#include "absl/strings/string_view.h"

// Where a VM's control socket is unless its configuration says otherwise: what vmm and vmctl must
// agree on to find each other.

namespace bulkhead {

// What a control socket's name adds to that of its VM.
inline constexpr char kControlSocketSuffix[] = ".sock";

// The folder of a user's control sockets: $XDG_RUNTIME_DIR/bulkhead, or without that variable
// /run/bulkhead for root and /tmp/bulkhead-UID for others. `xdg_runtime_dir` may be null, and
// counts as unset if it is not absolute, as the XDG specification has it.
std::string RuntimeDirectory(const char* xdg_runtime_dir, uid_t user);

// The same for this process.
std::string RuntimeDirectory();

// NAME.sock in `directory`. `vm_name` is valid: it has no '/'.
std::string ControlSocketPath(absl::string_view directory, absl::string_view vm_name);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_CONTROL_SOCKET_H_
