#ifndef BULKHEAD_BASE_RECEIVE_PACKET_H_
#define BULKHEAD_BASE_RECEIVE_PACKET_H_

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace bulkhead {

// Takes one packet that is there and, unless `fd` is nullptr, the descriptor that came with it, as
// close-on-exec; -1: none did. The counterpart of SendPacket(), with the same limits: makes one
// system call, recvmsg(2), and allocates no memory. Never waits. Returns the packet's size, cut to
// `size`, 0 at the end, or below 0 with errno.
inline ssize_t ReceivePacket(int socket, void* bytes, size_t size, int* fd) {
  iovec data = {.iov_base = bytes, .iov_len = size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd != nullptr) {
    *fd = -1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0 || fd == nullptr) return received;
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    memcpy(fd, CMSG_DATA(header), sizeof(*fd));
  }
  return received;
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_RECEIVE_PACKET_H_
