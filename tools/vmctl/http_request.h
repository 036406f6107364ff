#ifndef BULKHEAD_TOOLS_VMCTL_HTTP_REQUEST_H_
#define BULKHEAD_TOOLS_VMCTL_HTTP_REQUEST_H_

#include <stddef.h>

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead::vmctl {

// The longest head of a request that is read: request line and headers.
inline constexpr size_t kMaxHttpHeadBytes = 8192;

// What a client asks for, as far as an endpoint that only answers GET needs to know it (RFC 9112).
struct HttpRequest {
  int error = 0;  // the status code of the answer to a bad request; 0: a good one
  bool is_head = false;
  std::string path;  // "/metrics", without the query
};

// Parses the head of a request from all bytes that have come so far. Empty: it is not complete.
// Nothing is too short or malformed for it: the bytes are a client's, hostile input. Pure.
std::optional<HttpRequest> ParseHttpRequest(absl::string_view bytes);

// An answer: status line, headers and, except for HEAD, `body`. The connection closes after it.
std::string HttpResponse(int status, absl::string_view content_type, absl::string_view body,
                         bool is_head);

// An answer without anything but its status in words.
std::string HttpErrorResponse(int status, bool is_head);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_HTTP_REQUEST_H_
