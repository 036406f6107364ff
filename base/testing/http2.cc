#include "base/testing/http2.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace bulkhead::http2 {
namespace {

constexpr size_t kPrefaceBytes = 24;
constexpr size_t kFrameHeaderBytes = 9;

std::string Byte(size_t value) { return {static_cast<char>(value)}; }

// A string of HPACK (RFC 7541, 5.2).
std::string String(absl::string_view text) {
  if (text.size() < 0x7f) return absl::StrCat(Byte(text.size()), text);
  std::string length = Byte(0x7f);
  size_t rest = text.size() - 0x7f;
  for (; rest > 0x7f; rest >>= 7) length += Byte(0x80 | (rest & 0x7f));
  return absl::StrCat(length, Byte(rest), text);
}

std::string NameAndValue(absl::string_view name, absl::string_view value) {
  return absl::StrCat(String(name), String(value));
}

}  // namespace

std::string BigEndian(uint32_t value, int bytes) {
  std::string text;
  while (bytes-- > 0) text.push_back(static_cast<char>(value >> (8 * bytes)));
  return text;
}

std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  return absl::StrCat(BigEndian(static_cast<uint32_t>(payload.size()), 3), Byte(type), Byte(flags),
                      BigEndian(stream, 4), payload);
}

std::string Many(const std::string& frame) {
  std::string frames;
  while (frames.size() < 32768) frames += frame;
  return frames;
}

std::string Field(absl::string_view name, absl::string_view value) {
  return absl::StrCat(Byte(0), NameAndValue(name, value));
}

std::string IndexedField(absl::string_view name, absl::string_view value) {
  return absl::StrCat(Byte(0x40), NameAndValue(name, value));
}

std::string Message(absl::string_view bytes, bool compressed) {
  return absl::StrCat(Byte(compressed ? 1 : 0), BigEndian(static_cast<uint32_t>(bytes.size()), 4),
                      bytes);
}

std::string AnswerHeaders(uint32_t stream, absl::string_view more) {
  return Frame(
      kHeaders, kEndHeaders, stream,
      absl::StrCat(Field(":status", "200"), Field("content-type", "application/grpc"), more));
}

std::string Trailers(uint32_t stream, absl::string_view code) {
  return Frame(kHeaders, kEndHeaders | kEndStream, stream, Field("grpc-status", code));
}

std::string Answer(uint32_t stream, absl::string_view message, absl::string_view more) {
  std::string frames = AnswerHeaders(stream, more);
  do {
    absl::StrAppend(&frames, Frame(kData, 0, stream, message.substr(0, kMaxFrameBytes)));
    message.remove_prefix(std::min(message.size(), kMaxFrameBytes));
  } while (!message.empty());
  return absl::StrCat(frames, Trailers(stream, "0"));
}

bool ServerEnd::Send(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && TryAgain(POLLOUT)) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool ServerEnd::TryAgain(short events) const {
  if (errno == EINTR) return true;
  if (errno != EAGAIN) return false;
  pollfd wait = {.fd = socket_, .events = events, .revents = 0};
  return poll(&wait, 1, patience_ms_) != 0;
}

uint32_t ServerEnd::AwaitCall() {
  if (!preface_read_ && !Read(kPrefaceBytes)) return 0;
  preface_read_ = true;
  while (Read(kFrameHeaderBytes)) {
    const auto byte = [this](int i) { return static_cast<uint8_t>(read_[i]); };
    const size_t size = byte(0) << 16 | byte(1) << 8 | byte(2);
    const uint8_t type = byte(3);
    const uint8_t flags = byte(4);
    const uint32_t stream = byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8);
    if (size > 0 && !Read(size)) return 0;
    if (type == kHeaders) headers_ = read_;
    if (type == kData && (flags & kEndStream) != 0) return stream;
  }
  return 0;
}

void ServerEnd::ReadAndDropAll() {
  while (Read(1)) {
  }
}

bool ServerEnd::Read(size_t bytes) {
  read_.resize(bytes);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = recv(socket_, read_.data() + done, bytes - done, 0);
    if (n < 0 && TryAgain(POLLIN)) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace bulkhead::http2
