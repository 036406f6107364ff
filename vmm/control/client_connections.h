#ifndef BULKHEAD_VMM_CONTROL_CLIENT_CONNECTIONS_H_
#define BULKHEAD_VMM_CONTROL_CLIENT_CONNECTIONS_H_

#include <poll.h>
#include <stddef.h>

#include <vector>

#include "absl/status/status.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// Duplicates of sockets that gRPC owns and closes without a notification: to count the connections,
// and to cut one that gRPC cannot close because the peer does not read. The owner must shut a
// socket down before it closes it (gRPC does), else the peer does not notice the close.
// Thread-compatible.
class ClientConnections {
 public:
  explicit ClientConnections(size_t limit) : limit_(limit) {}

  bool full() const { return sockets_.size() >= limit_; }
  // `socket` is borrowed. Errors: as fcntl(2) (out of descriptors).
  absl::Status Add(int socket);

  // Appends all sockets to `polled`. POLLHUP means that a connection is over.
  void AppendTo(std::vector<pollfd>& polled) const;
  // Removes the connections that are over. `polled`: the entries of AppendTo(), after poll(2).
  void Remove(const pollfd* polled);

  // Ends all connections at once.
  void Cut();

 private:
  const size_t limit_;
  std::vector<UniqueFd> sockets_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_CLIENT_CONNECTIONS_H_
