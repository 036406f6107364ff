#ifndef BULKHEAD_VMM_CONTROL_CLIENT_CONNECTIONS_H_
#define BULKHEAD_VMM_CONTROL_CLIENT_CONNECTIONS_H_

#include <poll.h>
#include <stddef.h>

#include <vector>

#include "absl/status/status.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A second hold on sockets that another library owns (gRPC), which closes them without telling:
// to count them, and to cut one that it cannot close because the peer does not read. Whoever
// closes such a socket must shut it down first (gRPC does), or its peer does not notice.
// Thread-compatible.
class ClientConnections {
 public:
  explicit ClientConnections(size_t limit) : limit_(limit) {}

  bool full() const { return sockets_.size() >= limit_; }
  // `socket` stays the caller's. Errors: as fcntl(2): out of descriptors.
  absl::Status Add(int socket);

  // Appends all to what is to be polled: POLLHUP tells that a connection is over.
  void AppendTo(std::vector<pollfd>& polled) const;
  // `polled`: what AppendTo() has appended, polled. Forgets what is over.
  void Remove(const pollfd* polled);

  // Ends all connections, whatever they are doing.
  void Cut();

 private:
  const size_t limit_;
  std::vector<UniqueFd> sockets_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CLIENT_CONNECTIONS_H_
