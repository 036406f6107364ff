#include "vmm/back_end/back_ends.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/end_with_parent.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "vmm/back_end/back_end_process.h"

namespace bulkhead::vmm {
namespace {

struct Listener {
  UniqueFd socket;
  UniqueFd anchor;
};

// A socket without a name: others connect to it as /proc/self/fd/ANCHOR. So no file is left behind,
// and no other process can reach it.
absl::StatusOr<Listener> MakeListener() {
  char folder[] = "/tmp/bulkhead-XXXXXX";
  if (mkdtemp(folder) == nullptr)
    return ErrnoToStatus(errno, "a back end's socket: mkdtemp in /tmp");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = std::string(folder) + "/s";
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  Listener listener;
  listener.socket = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  absl::Status status;
  if (!listener.socket.ok()) {
    status = ErrnoToStatus(errno, "a back end's socket: socket");
  } else if (bind(listener.socket.get(), reinterpret_cast<const sockaddr*>(&address),
                  sizeof(address)) != 0) {
    status = ErrnoToStatus(errno, "a back end's socket: bind");
  } else if (listen(listener.socket.get(), 8) != 0) {
    status = ErrnoToStatus(errno, "a back end's socket: listen");
  } else if (listener.anchor = UniqueFd(open(path.c_str(), O_PATH | O_CLOEXEC));
             !listener.anchor.ok()) {
    status = ErrnoToStatus(errno, "a back end's socket: open");
  }
  unlink(path.c_str());
  rmdir(folder);
  if (!status.ok()) return status;
  return listener;
}

}  // namespace

absl::Status StartBackEnds(std::vector<DeviceSpec>& devices, SandboxLayers layers) {
  const UniqueFd self = OwnPidFd();
  if (!self.ok()) return ErrnoToStatus(errno, "pidfd_open of the vmm");
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (resource.back_end == nullptr) continue;
      ASSIGN_OR_RETURN(Listener listener, MakeListener());
      const pid_t process = fork();
      if (process < 0) return ErrnoToStatus(errno, "starting a back end: fork");
      if (process == 0) {
        SuperviseBackEnd(self.get(), device.name, *resource.back_end, listener.socket.get(),
                         layers);
      }
      resource.socket_anchor = std::make_shared<const UniqueFd>(std::move(listener.anchor));
    }
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
