#include "tools/vmctl/listen_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/errno_status.h"

namespace bulkhead::vmctl {
namespace {

absl::Status NoAddress(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not an address; give one as 127.0.0.1:9707 or [::1]:9707"));
}

// SimpleAtoi would take "+1" and " 1".
bool ParsePort(absl::string_view text, uint16_t& port) {
  uint32_t number = 0;
  if (text.empty() || text.find_first_not_of("0123456789") != absl::string_view::npos) return false;
  if (!absl::SimpleAtoi(text, &number) || number > UINT16_MAX) return false;
  port = static_cast<uint16_t>(number);
  return true;
}

}  // namespace

bool ListenAddress::IsLoopback() const {
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

std::string ListenAddress::Text() const {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", ntohs(v6.sin6_port));
}

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  uint16_t port = 0;
  if (colon == absl::string_view::npos || !ParsePort(text.substr(colon + 1), port)) {
    return NoAddress(text);
  }
  absl::string_view host = text.substr(0, colon);
  ListenAddress result;
  if (absl::ConsumePrefix(&host, "[")) {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(result.address);
    if (!absl::ConsumeSuffix(&host, "]") ||
        inet_pton(AF_INET6, std::string(host).c_str(), &v6.sin6_addr) != 1) {
      return NoAddress(text);
    }
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    result.size = sizeof(v6);
    return result;
  }
  auto& v4 = reinterpret_cast<sockaddr_in&>(result.address);
  if (inet_pton(AF_INET, std::string(host).c_str(), &v4.sin_addr) != 1) return NoAddress(text);
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  result.size = sizeof(v4);
  return result;
}

absl::StatusOr<UniqueFd> Listen(ListenAddress& address, int backlog) {
  UniqueFd fd(socket(address.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return ErrnoToStatus(errno, "socket");
  // Connections of a predecessor that still end do not keep the port.
  const int one = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (address.address.ss_family == AF_INET6) {
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
  }
  auto* const generic = reinterpret_cast<sockaddr*>(&address.address);
  if (bind(fd.get(), generic, address.size) != 0 || listen(fd.get(), backlog) != 0 ||
      getsockname(fd.get(), generic, &address.size) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("cannot listen on ", address.Text()));
  }
  return fd;
}

}  // namespace bulkhead::vmctl
