#include "devices/uart16550/console_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>

#include "base/errno_status.h"

namespace bulkhead::devices::uart16550 {

absl::StatusOr<std::unique_ptr<ConsoleSocket>> ConsoleSocket::Create(UniqueFd fd) {
  UniqueFd writable(epoll_create1(EPOLL_CLOEXEC));
  if (!writable.ok()) return ErrnoToStatus(errno, "epoll_create1");
  return std::unique_ptr<ConsoleSocket>(new ConsoleSocket(std::move(fd), std::move(writable)));
}

std::optional<size_t> ConsoleSocket::Send(const ConsolePacketHeader& header,
                                          absl::Span<const uint8_t> data) {
  const size_t size = std::min(data.size(), kMaxConsoleBytes);
  iovec parts[2] = {
      {.iov_base = const_cast<ConsolePacketHeader*>(&header), .iov_len = sizeof(header)},
      {.iov_base = const_cast<uint8_t*>(data.data()), .iov_len = size}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  ssize_t sent;
  do {
    sent = sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) return std::nullopt;
  return size;
}

std::optional<ConsoleSocket::Packet> ConsoleSocket::Peek() {
  const ssize_t size = recv(fd_.get(), packet_.data(), packet_.size(), MSG_PEEK | MSG_DONTWAIT);
  // The vmm sends no empty packets.
  ended_ |= size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR);
  Packet packet;
  if (size < static_cast<ssize_t>(sizeof(packet.header))) return std::nullopt;
  memcpy(&packet.header, packet_.data(), sizeof(packet.header));
  packet.data =
      absl::MakeConstSpan(packet_).first(static_cast<size_t>(size)).subspan(sizeof(packet.header));
  return packet;
}

void ConsoleSocket::Drop() { recv(fd_.get(), packet_.data(), 1, MSG_DONTWAIT); }

bool ConsoleSocket::AwaitRoom() {
  epoll_event event = {};
  event.events = EPOLLOUT | EPOLLONESHOT;
  // Modifying looks at the socket anew: room that has come meanwhile is not missed.
  const int operation = registered_ ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  registered_ |= epoll_ctl(writable_.get(), operation, fd_.get(), &event) == 0;
  return registered_;
}

void ConsoleSocket::EndAwaitingRoom() {
  epoll_event event;
  epoll_wait(writable_.get(), &event, 1, 0);
}

}  // namespace bulkhead::devices::uart16550
