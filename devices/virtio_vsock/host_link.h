#ifndef BULKHEAD_DEVICES_VIRTIO_VSOCK_HOST_LINK_H_
#define BULKHEAD_DEVICES_VIRTIO_VSOCK_HOST_LINK_H_

#include <stdint.h>

#include <optional>
#include <utility>

#include "base/unique_fd.h"
#include "proto/vsock_link.h"

namespace bulkhead::devices::virtio {

// The device's end of proto/vsock_link.h. Nothing blocks. Thread-compatible.
class HostLink {
 public:
  struct Message {
    VsockAnswer answer;
    UniqueFd connection;  // not ok(): none, or it could not be received
  };

  explicit HostLink(UniqueFd socket) : socket_(std::move(socket)) {}

  // Readable when there is something to Receive(), or the link has ended.
  int fd() const { return socket_.get(); }
  // False: there is no room, or the vmm is gone.
  bool Send(const VsockRequest& request);
  // The next message of the vmm, which the device trusts. nullopt: there is none now.
  std::optional<Message> Receive();
  // There will be no messages any more.
  bool has_ended() const { return ended_; }

 private:
  UniqueFd socket_;
  bool ended_ = false;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VSOCK_HOST_LINK_H_
