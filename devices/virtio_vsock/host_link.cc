#include "devices/virtio_vsock/host_link.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace bulkhead::devices::virtio {

bool HostLink::Send(const VsockRequest& request) {
  iovec data = {.iov_base = const_cast<VsockRequest*>(&request), .iov_len = sizeof(request)};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  ssize_t sent;
  do {
    sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == sizeof(request);
}

std::optional<HostLink::Message> HostLink::Receive() {
  Message received;
  iovec data = {.iov_base = &received.answer, .iov_len = sizeof(received.answer)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t size;
  do {
    size = recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0 && errno == EAGAIN) return std::nullopt;
  if (size <= 0) {
    ended_ = true;
    return std::nullopt;
  }
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    received.connection.reset(fd);
  }
  if (size != sizeof(received.answer)) received.answer = {};
  return received;
}

}  // namespace bulkhead::devices::virtio
