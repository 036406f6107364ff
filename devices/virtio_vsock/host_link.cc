#include "devices/virtio_vsock/host_link.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/receive_packet.h"
#include "base/send_packet.h"

namespace bulkhead::devices::virtio {

bool HostLink::Send(const VsockRequest& request) {
  return SendPacket(socket_.get(), &request, sizeof(request), -1, MSG_DONTWAIT);
}

std::optional<HostLink::Message> HostLink::Receive() {
  Message received;
  int fd = -1;
  const ssize_t size = ReceivePacket(socket_.get(), &received.answer, sizeof(received.answer), &fd);
  if (size < 0 && errno == EAGAIN) return std::nullopt;
  if (size <= 0) {
    ended_ = true;
    return std::nullopt;
  }
  if (fd >= 0) received.connection.reset(fd);
  if (size != sizeof(received.answer)) received.answer = {};
  return received;
}

}  // namespace bulkhead::devices::virtio
