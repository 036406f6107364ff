#ifndef BULKHEAD_VMM_CONTROL_TESTING_RAW_CLIENT_H_
#define BULKHEAD_VMM_CONTROL_TESTING_RAW_CLIENT_H_

#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A client whose HTTP/2 frames the test builds, also invalid ones. It reads only when told to,
// answers no ping, and opens no window. Single-threaded.
class RawClient {
 public:
  // Not ok() if it could not connect.
  explicit RawClient(const std::string& socket_path);

  bool ok() const { return fd_.ok(); }
  // Writes as much as the socket accepts. False: the server has closed it.
  bool Send(absl::string_view bytes);
  // Reads and discards until the server closes. False: it has not after `limit`.
  bool AwaitClose(absl::Duration limit);

  // The start of a connection: preface and settings.
  static std::string Preface();
  static std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload);
  // Begins a gRPC call of `path`, "/package.Service/Method", on an odd stream.
  static std::string Headers(uint32_t stream, absl::string_view path);
  static std::string Data(uint32_t stream, absl::string_view bytes, bool last);
  // A gRPC message: uncompressed, with a correct length.
  static std::string Message(absl::string_view proto);

 private:
  UniqueFd fd_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_TESTING_RAW_CLIENT_H_
