#include "vmm/control/open_connections.h"

#include <sys/stat.h>

namespace bulkhead::vmm {

bool OpenConnections::HasRoom() {
  if (connections_.size() < limit_) return true;
  std::erase_if(connections_, [](const Connection& connection) {
    struct stat now;
    return fstat(connection.fd, &now) != 0 || now.st_dev != connection.device ||
           now.st_ino != connection.inode;
  });
  return connections_.size() < limit_;
}

void OpenConnections::Add(int fd) {
  struct stat socket;
  if (fstat(fd, &socket) != 0) return;
  connections_.push_back({fd, socket.st_dev, socket.st_ino});
}

}  // namespace bulkhead::vmm
