#ifndef BULKHEAD_TOOLS_VMCTL_LISTEN_ADDRESS_H_
#define BULKHEAD_TOOLS_VMCTL_LISTEN_ADDRESS_H_

#include <sys/socket.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace bulkhead::vmctl {

// An address of TCP on this host.
struct ListenAddress {
  sockaddr_storage address = {};
  socklen_t size = 0;

  // Of this host alone: 127.0.0.0/8 or ::1.
  bool IsLoopback() const;
  // "127.0.0.1:9707", "[::1]:9707".
  std::string Text() const;
};

// Parses "127.0.0.1:9707" or "[::1]:9707". Names are not looked up: what one listens on should not
// depend on a name server. Port 0 is any that is free. Errors: InvalidArgument, for the operator.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text);

// A socket that listens there, non-blocking; `address` gets the port that it has. Errors: as
// bind(2), with the address.
absl::StatusOr<UniqueFd> Listen(ListenAddress& address, int backlog);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_LISTEN_ADDRESS_H_
