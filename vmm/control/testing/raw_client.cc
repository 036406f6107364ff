#include "vmm/control/testing/raw_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace bulkhead::vmm {
namespace {

constexpr uint8_t kData = 0;
constexpr uint8_t kHeaders = 1;
constexpr uint8_t kSettings = 4;
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kEndHeaders = 4;

std::string BigEndian(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text.push_back(static_cast<char>(value >> (8 * i)));
  return text;
}

// HPACK: a literal field without indexing. Name and value are uncompressed and have 126 bytes at
// most.
std::string Field(absl::string_view name, absl::string_view value) {
  return absl::StrCat(absl::string_view("\0", 1), BigEndian(name.size(), 1), name,
                      BigEndian(value.size(), 1), value);
}

}  // namespace

RawClient::RawClient(const std::string& socket_path)
    : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, socket_path.data(),
         std::min(socket_path.size(), sizeof(address.sun_path) - 1));
  if (connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) fd_.reset();
}

bool RawClient::Send(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return errno == EAGAIN;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool RawClient::AwaitClose(absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  while (true) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    pollfd polled{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    char bytes[4096];
    const ssize_t n = recv(fd_.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return true;
  }
}

std::string RawClient::Preface() {
  return absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Frame(kSettings, 0, 0, ""));
}

std::string RawClient::Frame(uint8_t type, uint8_t flags, uint32_t stream,
                             absl::string_view payload) {
  return absl::StrCat(BigEndian(payload.size(), 3), BigEndian(type, 1), BigEndian(flags, 1),
                      BigEndian(stream, 4), payload);
}

std::string RawClient::Headers(uint32_t stream, absl::string_view path) {
  return Frame(kHeaders, kEndHeaders, stream,
               absl::StrCat(Field(":method", "POST"), Field(":scheme", "http"),
                            Field(":path", path), Field(":authority", "localhost"),
                            Field("te", "trailers"), Field("content-type", "application/grpc")));
}

std::string RawClient::Data(uint32_t stream, absl::string_view bytes, bool last) {
  return Frame(kData, last ? kEndStream : 0, stream, bytes);
}

std::string RawClient::Message(absl::string_view proto) {
  return absl::StrCat(BigEndian(0, 1), BigEndian(proto.size(), 4), proto);
}

}  // namespace bulkhead::vmm
