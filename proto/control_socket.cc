#include "proto/control_socket.h"

#include <stdlib.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace bulkhead {

std::string RuntimeDirectory(const char* xdg_runtime_dir, uid_t user) {
  if (xdg_runtime_dir != nullptr && xdg_runtime_dir[0] == '/') {
    return absl::StrCat(xdg_runtime_dir, "/bulkhead");
  }
  return user == 0 ? "/run/bulkhead" : absl::StrCat("/tmp/bulkhead-", user);
}

std::string RuntimeDirectory() { return RuntimeDirectory(getenv("XDG_RUNTIME_DIR"), geteuid()); }

std::string ControlSocketPath(absl::string_view directory, absl::string_view vm_name) {
  return absl::StrCat(directory, "/", vm_name, kControlSocketSuffix);
}

}  // namespace bulkhead
