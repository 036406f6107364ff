#ifndef BULKHEAD_VMM_CONTROL_OPEN_CONNECTIONS_H_
#define BULKHEAD_VMM_CONTROL_OPEN_CONNECTIONS_H_

#include <stddef.h>
#include <sys/types.h>

#include <vector>

namespace bulkhead::vmm {

// Counts sockets that another library owns and closes without telling us (gRPC does): a
// descriptor that is still the same socket is still open. Thread-compatible.
class OpenConnections {
 public:
  explicit OpenConnections(size_t limit) : limit_(limit) {}

  // One system call a connection, but only once there seem to be too many.
  bool HasRoom();
  // `fd`: a socket, open.
  void Add(int fd);

 private:
  struct Connection {
    int fd;
    dev_t device;
    ino_t inode;
  };

  const size_t limit_;
  std::vector<Connection> connections_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_OPEN_CONNECTIONS_H_
