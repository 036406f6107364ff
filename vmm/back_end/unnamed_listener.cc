#include "vmm/back_end/unnamed_listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"

namespace bulkhead::vmm {
namespace {

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

}  // namespace

absl::StatusOr<UnnamedListener> MakeUnnamedListener() {
  char folder[] = "/tmp/bulkhead-XXXXXX";
  if (mkdtemp(folder) == nullptr)
    return ErrnoToStatus(errno, "a back end's socket: mkdtemp in /tmp");
  const std::string path = std::string(folder) + "/s";
  const sockaddr_un address = AddressOf(path);
  UnnamedListener listener;
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

absl::StatusOr<UniqueFd> ConnectTo(const UnnamedListener& listener) {
  const sockaddr_un address = AddressOf(absl::StrCat("/proc/self/fd/", listener.anchor.get()));
  UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!client.ok()) return ErrnoToStatus(errno, "a back end's socket: socket");
  if (connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoToStatus(errno, "a back end's socket: connect");
  }
  return client;
}

}  // namespace bulkhead::vmm
