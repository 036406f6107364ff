#include "base/message_socket.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead {
namespace {

#ifdef SO_PASSRIGHTS
constexpr int kPassRights = SO_PASSRIGHTS;
#else
constexpr int kPassRights = 83;  // Debian 12's headers are older
#endif

// The kernel counts the descriptors that are on their way between all processes of the user, and
// compares them with RLIMIT_NOFILE. Each is on its way for a moment.
constexpr absl::Duration kTransitTime = absl::Milliseconds(100);

constexpr size_t kControlBytes = CMSG_SPACE(sizeof(int) * kMaxMessageDescriptors);

absl::Status PeerGone() { return absl::UnavailableError("the other end of the socket is closed"); }

absl::Status TooLong(size_t max_bytes) {
  return absl::InvalidArgumentError(absl::StrCat("a message has more than ", max_bytes, " bytes"));
}

absl::Status WaitReadable(int socket, absl::Time deadline) {
  while (true) {
    const timespec limit = absl::ToTimespec(std::max(deadline - SteadyNow(), absl::ZeroDuration()));
    pollfd p = {.fd = socket, .events = POLLIN, .revents = 0};
    const bool forever = deadline == absl::InfiniteFuture();
    const int n = ppoll(&p, 1, forever ? nullptr : &limit, nullptr);
    if (n > 0) return absl::OkStatus();
    if (n == 0) return absl::DeadlineExceededError("no answer came in time");
    if (errno != EINTR) return ErrnoToStatus(errno, "ppoll of a socket");
  }
}

// Takes over every descriptor first: none leaks if the packet turns out to be wrong.
std::vector<UniqueFd> TakeDescriptors(msghdr& header) {
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      descriptors.emplace_back(fd);
    }
  }
  return descriptors;
}

}  // namespace

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> CreateSocketPair(int type) {
  int fds[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) {
    return ErrnoToStatus(errno, "socketpair");
  }
  return std::make_pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

void RefuseDescriptors(int socket) {
  constexpr int kRefuse = 0;
  (void)setsockopt(socket, SOL_SOCKET, kPassRights, &kRefuse, sizeof(kRefuse));
}

absl::Status SendSocketMessage(int socket, absl::string_view bytes,
                               absl::Span<const int> descriptors) {
  if (descriptors.size() > kMaxMessageDescriptors) {
    return absl::InvalidArgumentError(
        absl::StrCat(descriptors.size(), " descriptors do not fit into one message: at most ",
                     kMaxMessageDescriptors));
  }
  iovec data = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  alignas(cmsghdr) char control[kControlBytes] = {};
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    const size_t size_bytes = descriptors.size() * sizeof(int);
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(size_bytes);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(size_bytes);
    memcpy(CMSG_DATA(c), descriptors.data(), size_bytes);
  }
  const absl::Time patience_ends = SteadyNow() + kTransitTime;
  while (true) {
    if (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return absl::OkStatus();
    if (errno == ETOOMANYREFS) {
      if (SteadyNow() > patience_ends) {
        return absl::ResourceExhaustedError(
            "sendmsg: more descriptors are on their way between the user's processes than "
            "RLIMIT_NOFILE allows");
      }
      poll(nullptr, 0, 1);
      continue;
    }
    if (errno == EPIPE || errno == ECONNRESET) return PeerGone();
    // Unavailable means that the peer is gone.
    if (errno == EAGAIN) return absl::ResourceExhaustedError("sendmsg: the socket is full");
    if (errno != EINTR) return ErrnoToStatus(errno, "sendmsg");
  }
}

absl::StatusOr<SocketMessage> ReceiveSocketMessage(int socket, size_t max_bytes,
                                                   absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  SocketMessage message;
  message.bytes.resize(max_bytes);
  iovec data = {.iov_base = message.bytes.data(), .iov_len = message.bytes.size()};
  alignas(cmsghdr) char control[kControlBytes];
  while (true) {
    if (absl::Status status = WaitReadable(socket, deadline); !status.ok()) return status;
    msghdr header = {};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    const ssize_t n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      if (errno == ECONNRESET) return PeerGone();
      return ErrnoToStatus(errno, "recvmsg");
    }
    message.descriptors = TakeDescriptors(header);
    if (n == 0) return PeerGone();
    if ((header.msg_flags & MSG_TRUNC) != 0) return TooLong(max_bytes);
    if ((header.msg_flags & MSG_CTRUNC) != 0) {
      return absl::ResourceExhaustedError("not all descriptors of a message could be received");
    }
    message.bytes.resize(static_cast<size_t>(n));
    return message;
  }
}

ssize_t ReceivePlainPacket(int socket, absl::Span<char> buffer) {
  // A look at a packet takes its descriptors for a moment, and they stay the packet's.
  msghdr header = {};
  const ssize_t size = recvmsg(socket, &header, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  if (size < 0) return size;
  if ((header.msg_flags & MSG_CTRUNC) != 0) {
    errno = EBADMSG;
    return -1;
  }
  return recv(socket, buffer.data(), buffer.size(), MSG_TRUNC | MSG_DONTWAIT);
}

ssize_t ReceivePlainBytes(int socket, absl::Span<char> buffer) {
  iovec data = {.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  const ssize_t size = recvmsg(socket, &header, MSG_PEEK | MSG_DONTWAIT);
  if (size <= 0) return size;
  if ((header.msg_flags & MSG_CTRUNC) != 0) {
    errno = EBADMSG;
    return -1;
  }
  return recv(socket, buffer.data(), static_cast<size_t>(size), MSG_DONTWAIT);
}

absl::StatusOr<std::string> ReceivePlainMessage(int socket, size_t max_bytes,
                                                absl::Duration timeout) {
  const absl::Time deadline = SteadyNow() + timeout;
  std::string bytes(max_bytes, '\0');
  while (true) {
    if (absl::Status status = WaitReadable(socket, deadline); !status.ok()) return status;
    const ssize_t n = ReceivePlainPacket(socket, absl::MakeSpan(bytes));
    if (n < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      if (errno == ECONNRESET) return PeerGone();
      if (errno == EBADMSG)
        return absl::InvalidArgumentError("a message carries descriptors; none are accepted here");
      return ErrnoToStatus(errno, "recvmsg");
    }
    if (n == 0) return PeerGone();
    if (static_cast<size_t>(n) > max_bytes) return TooLong(max_bytes);
    bytes.resize(static_cast<size_t>(n));
    return bytes;
  }
}

}  // namespace bulkhead
