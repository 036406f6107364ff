#include "integration/net/tcp_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace bulkhead::integration {
namespace {

constexpr int kPatienceSeconds = 60;

sockaddr_in Address(const char* ip, uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, ip, &address.sin_addr);
  return address;
}

void LimitReads(const UniqueFd& connection) {
  const timeval limit = {.tv_sec = kPatienceSeconds, .tv_usec = 0};
  setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

}  // namespace

UniqueFd ConnectTcp(const char* ip, uint16_t port) {
  const sockaddr_in address = Address(ip, port);
  for (int i = 0; i < 10 * kPatienceSeconds; ++i) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      LimitReads(fd);
      return fd;
    }
    absl::SleepFor(absl::Milliseconds(100));
  }
  return UniqueFd();
}

UniqueFd ListenTcp(uint16_t port) {
  const sockaddr_in address = Address("0.0.0.0", port);
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd.get(), 16) != 0) {
    return UniqueFd();
  }
  return fd;
}

UniqueFd AcceptTcp(const UniqueFd& listener) {
  pollfd entry = {.fd = listener.get(), .events = POLLIN, .revents = 0};
  if (poll(&entry, 1, 1000 * kPatienceSeconds) != 1) return UniqueFd();
  UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  LimitReads(connection);
  return connection;
}

std::string SendAll(const UniqueFd& connection, const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t n = send(connection.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (n <= 0) return absl::StrCat("send: ", strerror(errno), " after ", at, " bytes");
    at += static_cast<size_t>(n);
  }
  return "";
}

std::string ReceiveAll(const UniqueFd& connection, std::string& bytes) {
  std::string part(65536, '\0');
  while (true) {
    const ssize_t n = recv(connection.get(), part.data(), part.size(), 0);
    if (n < 0) return absl::StrCat("recv: ", strerror(errno), " after ", bytes.size(), " bytes");
    if (n == 0) return "";
    bytes.append(part, 0, static_cast<size_t>(n));
  }
}

std::string TcpPattern(size_t size) {
  std::string bytes(size, '\0');
  uint32_t state = 1;
  for (char& byte : bytes) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

}  // namespace bulkhead::integration
