#ifndef BULKHEAD_VMM_CONTROL_CLIENT_CHECK_H_
#define BULKHEAD_VMM_CONTROL_CLIENT_CHECK_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bulkhead::vmm {

// The process that called connect(2), as the kernel recorded it then (SO_PEERCRED).
struct ClientProcess {
  uid_t user = 0;  // its effective user
  pid_t pid = 0;   // 0: not in the PID namespace of this process
  // It is in this process's PID namespace, not in one below. False: it is not, or Linux (before
  // 6.5) does not say.
  bool in_own_namespace = false;

  // "user 1000, process 4711"
  std::string Name() const;
};

// The client of an accepted connection. Errors: as getsockopt(2).
absl::StatusOr<ClientProcess> ClientOf(int connection);

// The process that serves a socket.
struct ServingProcess {
  uid_t user = 0;
  pid_t pid = 0;

  static ServingProcess Current();
};

// The file's mode already keeps other users out of the control socket, but someone may have
// loosened it. Errors: PermissionDenied (the client is neither of the server's user nor root).
absl::Status CheckUser(const ClientProcess& client, const ServingProcess& server);

// The descendants of the vmm are its device processes and what they started. None of them has
// business with its sockets. A sandbox keeps them away; this also holds without one, as long as the
// device has a PID namespace (else it can start a process that is no descendant). A process that
// has ended, or that /proc does not show (hidepid), may have been a descendant: it is refused,
// unless it is in the server's own PID namespace.
// Errors: PermissionDenied.
absl::Status CheckNotDescendant(const ClientProcess& client, const ServingProcess& server);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CLIENT_CHECK_H_
