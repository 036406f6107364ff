#include "tools/vmctl/http_request.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace bulkhead::vmctl {
namespace {

constexpr absl::string_view kTokenMarks = "!#$%&'*+-.^_`|~";

bool IsToken(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || absl::StrContains(kTokenMarks, c);
  });
}

// Printable ASCII without spaces: all that a URI consists of.
bool IsTarget(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c));
  });
}

bool IsFieldValue(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return c == '\t' || !absl::ascii_iscntrl(static_cast<unsigned char>(c));
  });
}

// Takes a line off the front, without its end: CR LF, or LF alone as RFC 9112 (2.2) allows. Empty:
// there is no whole line.
std::optional<absl::string_view> TakeLine(absl::string_view& bytes) {
  const size_t end = bytes.find('\n');
  if (end == absl::string_view::npos) return std::nullopt;
  absl::string_view line = bytes.substr(0, end);
  bytes.remove_prefix(end + 1);
  absl::ConsumeSuffix(&line, "\r");
  return line;
}

HttpRequest Bad(int error) { return {.error = error, .is_head = false, .path = ""}; }

HttpRequest ParseRequestLine(absl::string_view line, bool& needs_host) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == absl::string_view::npos || first == last) return Bad(400);
  const absl::string_view method = line.substr(0, first);
  absl::string_view target = line.substr(first + 1, last - first - 1);
  const absl::string_view version = line.substr(last + 1);
  if (!IsToken(method) || !IsTarget(target)) return Bad(400);
  if (!absl::StartsWith(version, "HTTP/")) return Bad(400);
  if (version != "HTTP/1.0" && version != "HTTP/1.1") return Bad(505);
  needs_host = version == "HTTP/1.1";
  if (method != "GET" && method != "HEAD") return Bad(405);
  // The absolute form, which only proxies get but every server must take.
  if (absl::ConsumePrefix(&target, "http://")) {
    const size_t path = target.find('/');
    target = path == absl::string_view::npos ? absl::string_view("/") : target.substr(path);
  }
  if (target[0] != '/') return Bad(400);
  return {.error = 0,
          .is_head = method == "HEAD",
          .path = std::string(target.substr(0, target.find('?')))};
}

absl::string_view Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Error";
  }
}

}  // namespace

std::optional<HttpRequest> ParseHttpRequest(absl::string_view bytes) {
  const bool too_long = bytes.size() > kMaxHttpHeadBytes;
  bytes = bytes.substr(0, kMaxHttpHeadBytes);
  const auto unfinished = [too_long]() -> std::optional<HttpRequest> {
    if (too_long) return Bad(431);
    return std::nullopt;
  };
  std::optional<absl::string_view> line = TakeLine(bytes);
  // A client may send an empty line before a request (RFC 9112, 2.2).
  if (line.has_value() && line->empty()) line = TakeLine(bytes);
  if (!line.has_value()) return unfinished();
  bool needs_host = false;
  HttpRequest request = ParseRequestLine(*line, needs_host);
  if (request.error != 0) return request;
  int hosts = 0;
  while (true) {
    line = TakeLine(bytes);
    if (!line.has_value()) return unfinished();
    if (line->empty()) break;
    // No space may be before the colon; a line that begins with one would continue the one before,
    // which is obsolete. A token has no space, so both are refused.
    const size_t colon = line->find(':');
    if (colon == absl::string_view::npos || !IsToken(line->substr(0, colon)) ||
        !IsFieldValue(line->substr(colon + 1))) {
      return Bad(400);
    }
    hosts += absl::EqualsIgnoreCase(line->substr(0, colon), "Host") ? 1 : 0;
  }
  if (hosts > 1 || (needs_host && hosts == 0)) return Bad(400);
  return request;
}

std::string HttpResponse(int status, absl::string_view content_type, absl::string_view body,
                         bool is_head) {
  return absl::StrCat("HTTP/1.1 ", status, " ", Reason(status), "\r\nContent-Type: ", content_type,
                      "\r\nContent-Length: ", body.size(),
                      "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
                      status == 405 ? "Allow: GET, HEAD\r\n" : "", "Connection: close\r\n\r\n",
                      is_head ? absl::string_view() : body);
}

std::string HttpErrorResponse(int status, bool is_head) {
  return HttpResponse(status, "text/plain; charset=utf-8",
                      absl::StrCat(status, " ", Reason(status), "\n"), is_head);
}

}  // namespace bulkhead::vmctl
