#ifndef BULKHEAD_BASE_SEND_PACKET_H_
#define BULKHEAD_BASE_SEND_PACKET_H_

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace bulkhead {

// Sends one packet and, unless `fd` is -1, that descriptor, for processes that may do little else
// (SendSocketMessage() is for all others): makes one system call, sendmsg(2), and allocates no
// memory. `flags`: MSG_DONTWAIT or 0, which waits while the socket is full, until its peer is gone.
// False: errno says why.
inline bool SendPacket(int socket, const void* bytes, size_t size, int fd, int flags = 0) {
  iovec data = {.iov_base = const_cast<void*>(bytes), .iov_len = size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL | flags);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(size);
}

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SEND_PACKET_H_
