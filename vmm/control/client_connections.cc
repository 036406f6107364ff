#include "vmm/control/client_connections.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "base/errno_status.h"

namespace bulkhead::vmm {

absl::Status ClientConnections::Add(int socket) {
  UniqueFd hold(fcntl(socket, F_DUPFD_CLOEXEC, 0));
  if (!hold.ok()) return ErrnoToStatus(errno, "F_DUPFD_CLOEXEC");
  sockets_.push_back(std::move(hold));
  return absl::OkStatus();
}

void ClientConnections::AppendTo(std::vector<pollfd>& polled) const {
  for (const UniqueFd& socket : sockets_) {
    polled.push_back({.fd = socket.get(), .events = 0, .revents = 0});
  }
}

void ClientConnections::Remove(const pollfd* polled) {
  std::erase_if(sockets_, [&](const UniqueFd&) { return (polled++)->revents != 0; });
}

void ClientConnections::Cut() {
  for (const UniqueFd& socket : sockets_) shutdown(socket.get(), SHUT_RDWR);
}

}  // namespace bulkhead::vmm
