#include "vmm/service/notify_socket.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bulkhead::vmm {
namespace {

std::optional<std::string> Take(const char* name) {
  const char* const value = getenv(name);
  if (value == nullptr) return std::nullopt;
  std::string text = value;
  unsetenv(name);
  return text;
}

UniqueFd Connect(const std::string& name) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  const bool is_known = !name.empty() && (name[0] == '/' || name[0] == '@');
  if (!is_known || name.size() >= sizeof(address.sun_path)) {
    errno = EAFNOSUPPORT;
    return UniqueFd();
  }
  memcpy(address.sun_path, name.data(), name.size());
  if (name[0] == '@') address.sun_path[0] = '\0';  // unix(7): abstract
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (!socket.ok() ||
      connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) {
    return UniqueFd();
  }
  return socket;
}

}  // namespace

NotifySocket NotifySocket::FromEnvironment() {
  const std::optional<std::string> name = Take("NOTIFY_SOCKET");
  const std::optional<std::string> watchdog = Take("WATCHDOG_USEC");
  const std::optional<std::string> watched = Take("WATCHDOG_PID");
  NotifySocket socket;
  if (!name.has_value()) return socket;
  socket.socket_ = Connect(*name);
  if (!socket.socket_.ok()) {
    LogWarning(absl::StrCat("NOTIFY_SOCKET=", *name, ": ", strerror(errno),
                            ": the service manager does not hear of this VM"));
    return socket;
  }
  int64_t microseconds = 0;
  int64_t pid = getpid();
  if (watchdog.has_value() && absl::SimpleAtoi(*watchdog, &microseconds) && microseconds > 0 &&
      (!watched.has_value() || absl::SimpleAtoi(*watched, &pid)) && pid == getpid()) {
    socket.watchdog_interval_ = absl::Microseconds(microseconds) / 2;
  }
  return socket;
}

void NotifySocket::Send(absl::string_view state) const {
  if (connected()) (void)!send(socket_.get(), state.data(), state.size(), MSG_NOSIGNAL);
}

}  // namespace bulkhead::vmm
