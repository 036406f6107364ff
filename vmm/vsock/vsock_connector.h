#ifndef BULKHEAD_VMM_VSOCK_VSOCK_CONNECTOR_H_
#define BULKHEAD_VMM_VSOCK_VSOCK_CONNECTOR_H_

#include <stdint.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A process that connects to the unix sockets SOCKET_PORT, by the number of the port, and can do
// nothing else. It is a copy of the vmm from before the guest's memory and before the vmm gave up
// its rights: so a vmm that was taken over reaches these sockets only, and one whose file system
// does not answer stops nothing but the guest's own connections.
//
// It ends with this object, or with this process. Thread-compatible.
class VsockConnector {
 public:
  struct Answer {
    uint64_t token = 0;
    UniqueFd socket;  // not ok(): refused
  };

  // `socket_path`: in front of "_PORT". `confined`: it keeps no capabilities but those to use other
  // users' sockets, and makes no other system calls. Errors: as fork(2).
  static absl::StatusOr<VsockConnector> Start(const std::string& socket_path, bool confined);
  VsockConnector(VsockConnector&& other) noexcept
      : socket_(std::move(other.socket_)), pid_(std::exchange(other.pid_, 0)) {}
  ~VsockConnector();

  // Asks for a connection; `token` comes back in the answer. False: too many are under way, or the
  // process is dead.
  bool Ask(uint64_t token, uint32_t port) const;
  // Readable when there is an answer, or the process is dead.
  int fd() const { return socket_.get(); }
  // The next answer; nullopt: there is none. Errors: Unavailable (the process is dead).
  absl::StatusOr<std::optional<Answer>> Receive() const;

 private:
  VsockConnector(UniqueFd socket, pid_t pid) : socket_(std::move(socket)), pid_(pid) {}

  UniqueFd socket_;
  pid_t pid_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VSOCK_VSOCK_CONNECTOR_H_
