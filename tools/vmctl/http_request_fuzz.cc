// Fuzzes the parser of HTTP requests: an input is what a client sends.
#include <stddef.h>
#include <stdint.h>

#include <iterator>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/testing/fuzz_input.h"
#include "tools/vmctl/http_request.h"

namespace bulkhead::vmctl {
namespace {

bool IsGood(const std::optional<HttpRequest>& request) {
  return request.has_value() && request->error == 0;
}

// What a server relies on.
void Check(const std::string& bytes) {
  const std::optional<HttpRequest> request = ParseHttpRequest(bytes);
  Require(request.has_value() || bytes.size() <= kMaxHttpHeadBytes, "reads on for ever");
  if (!request.has_value()) return;
  if (IsGood(request)) {
    Require(!request->path.empty() && request->path[0] == '/');
    Require(request->path.size() <= kMaxHttpHeadBytes);
    for (const char c : request->path) Require(c > ' ' && c < 0x7f && c != '?');
    // What follows a request changes nothing of it.
    if (bytes.size() < kMaxHttpHeadBytes) {
      const std::optional<HttpRequest> longer = ParseHttpRequest(bytes + "x");
      Require(IsGood(longer) && longer->path == request->path);
    }
  } else {
    Require(request->error >= 400 && request->error <= 505);
  }
}

// A request of pieces, most of which fit where they come.
std::string Assembled(FuzzInput input) {
  static constexpr absl::string_view kPieces[] = {
      "GET",  "HEAD",     "POST",     " ",      " ",    "/",    "/metrics", "http://",
      "?",    "HTTP/1.1", "HTTP/1.0", "HTTP/2", "\r\n", "\r\n", "\n",       "\r",
      "Host", "host",     ":",        ": ",     "a",    "\t",   "\x7f"};
  std::string bytes = input.Byte() % 4 != 0 ? "GET /metrics HTTP/1.1\r\nHost: a\r\n" : "";
  while (!input.empty() && bytes.size() < 2 * kMaxHttpHeadBytes) {
    const uint8_t choice = input.Byte();
    if (choice < 8) {
      bytes.push_back(static_cast<char>(input.Byte()));
    } else if (choice < 10) {
      bytes.append(input.Take(2) % kMaxHttpHeadBytes, 'x');
    } else {
      absl::StrAppend(&bytes, kPieces[choice % std::size(kPieces)]);
    }
  }
  return bytes;
}

}  // namespace
}  // namespace bulkhead::vmctl

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  bulkhead::vmctl::Check(bytes);
  bulkhead::vmctl::Check(bulkhead::vmctl::Assembled(bulkhead::FuzzInput(data, size)));
  return 0;
}
