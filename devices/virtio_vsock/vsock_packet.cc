#include "devices/virtio_vsock/vsock_packet.h"

#include <string.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace bulkhead::devices::virtio {

size_t TotalBytes(absl::Span<const iovec> buffers) {
  size_t total = 0;
  for (const iovec& buffer : buffers) total += buffer.iov_len;
  return total;
}

std::vector<iovec> Slice(absl::Span<const iovec> buffers, size_t offset, size_t size) {
  std::vector<iovec> parts;
  for (const iovec& buffer : buffers) {
    if (size == 0) break;
    const size_t skipped = std::min(offset, buffer.iov_len);
    offset -= skipped;
    const size_t taken = std::min(size, buffer.iov_len - skipped);
    size -= taken;
    if (taken == 0) continue;
    parts.push_back(
        {.iov_base = static_cast<uint8_t*>(buffer.iov_base) + skipped, .iov_len = taken});
  }
  return parts;
}

size_t CopyOut(absl::Span<const iovec> buffers, void* to, size_t size) {
  size_t done = 0;
  for (const iovec& buffer : buffers) {
    const size_t part = std::min(size - done, buffer.iov_len);
    memcpy(static_cast<uint8_t*>(to) + done, buffer.iov_base, part);
    done += part;
    if (done == size) break;
  }
  return done;
}

size_t CopyIn(absl::Span<const iovec> buffers, const void* from, size_t size) {
  size_t done = 0;
  for (const iovec& buffer : buffers) {
    const size_t part = std::min(size - done, buffer.iov_len);
    memcpy(buffer.iov_base, static_cast<const uint8_t*>(from) + done, part);
    done += part;
    if (done == size) break;
  }
  return done;
}

ConnectLine ParseConnectLine(absl::string_view text) {
  using State = ConnectLine::State;
  if (text.empty() || text.back() != '\n') {
    return {.state = text.size() < kMaxConnectLine ? State::kIncomplete : State::kInvalid};
  }
  text.remove_suffix(1);
  ConnectLine line;
  const bool valid = absl::ConsumePrefix(&text, "CONNECT ") && !text.empty() &&
                     absl::ascii_isdigit(static_cast<unsigned char>(text[0])) &&
                     absl::ascii_isdigit(static_cast<unsigned char>(text.back())) &&
                     absl::SimpleAtoi(text, &line.port);
  line.state = valid ? State::kValid : State::kInvalid;
  return line;
}

}  // namespace bulkhead::devices::virtio
