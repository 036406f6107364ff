#ifndef BULKHEAD_BASE_TESTING_HTTP2_H_
#define BULKHEAD_BASE_TESTING_HTTP2_H_

#include <stddef.h>
#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"

// As much of HTTP/2 (RFC 9113) and of gRPC over it as a hostile server needs.

namespace bulkhead::http2 {

enum FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kRstStream = 3,
  kSettings = 4,
  kPushPromise = 5,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
  kContinuation = 9,
};
inline constexpr uint8_t kEndStream = 1;  // of kData and kHeaders
inline constexpr uint8_t kAck = 1;        // of kSettings and kPing
inline constexpr uint8_t kEndHeaders = 4;

inline constexpr size_t kMaxFrameBytes = 16384;  // of a payload, unless the peer allows more

std::string BigEndian(uint32_t value, int bytes);
std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload);
// Repeats the frame to about 32 KiB, for floods.
std::string Many(const std::string& frame);

// A header field without indexing (RFC 7541, 6.2.2).
std::string Field(absl::string_view name, absl::string_view value);
// The same, but the peer keeps it in its dynamic table: the next one is then at index 62.
std::string IndexedField(absl::string_view name, absl::string_view value);
// A field of the tables by its index, which is below 127.
inline std::string IndexOf(uint8_t index) { return {static_cast<char>(0x80 | index)}; }

// A message of gRPC, with its prefix.
std::string Message(absl::string_view bytes, bool compressed = false);
std::string AnswerHeaders(uint32_t stream, absl::string_view more = "");
std::string Trailers(uint32_t stream, absl::string_view code);
// A whole answer to a unary call. `message` is of any length.
std::string Answer(uint32_t stream, absl::string_view message, absl::string_view more = "");

// The server's end of a connection, on a socket that it borrows.
class ServerEnd {
 public:
  explicit ServerEnd(int socket) : socket_(socket) {}

  // How long to wait for the client, if the socket does not block: then it counts as closed.
  void set_patience_ms(int patience) { patience_ms_ = patience; }

  // Blocks while the client does not read. False: the client has closed the connection.
  bool Send(absl::string_view bytes);
  // Reads until a whole call has arrived. Returns its stream; 0: the client has closed.
  uint32_t AwaitCall();
  // The header block of that call, as it came: the first call of a method names it, a later one may
  // refer to the first.
  const std::string& headers() const { return headers_; }
  // Until the client closes.
  void ReadAndDropAll();

 private:
  bool Read(size_t bytes);
  // True if a call that has failed is to be made again, after a wait for `events`.
  bool TryAgain(short events) const;  // NOLINT(google-runtime-int): as pollfd

  const int socket_;
  int patience_ms_ = -1;
  bool preface_read_ = false;
  std::string read_;
  std::string headers_;
};

}  // namespace bulkhead::http2

#endif  // BULKHEAD_BASE_TESTING_HTTP2_H_
