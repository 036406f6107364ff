#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"

namespace bulkhead {
namespace {

std::string& ProcessName() {
  static std::string& name = *new std::string("bulkhead");
  return name;
}

LogLevel minimum_level = LogLevel::kInfo;

absl::string_view Prefix(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug: ";
    case LogLevel::kInfo:
      return "";
    case LogLevel::kWarning:
      return "warning: ";
    case LogLevel::kError:
      return "error: ";
  }
  return "";
}

// Writes without blocking, but in parts: a stopped terminal or a full pipe takes no byte more
// than poll says, and a pipe that is ready takes PIPE_BUF. False: some or all is lost.
bool WriteNow(absl::string_view bytes) {
  while (!bytes.empty()) {
    pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0) return false;
    const ssize_t n = write(STDERR_FILENO, bytes.data(), std::min<size_t>(bytes.size(), PIPE_BUF));
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace

void InitLog(absl::string_view process_name, LogLevel level) {
  ProcessName() = std::string(process_name);
  minimum_level = level;
}

void Log(LogLevel level, absl::string_view text) {
  if (level < minimum_level) return;
  static std::atomic<uint64_t> lost_lines{0};
  std::string line = absl::StrCat(ProcessName(), ": ", Prefix(level), text, "\n");
  if (const uint64_t lost = lost_lines.exchange(0); lost != 0) {
    line = absl::StrCat(ProcessName(), ": (", lost, " lines were lost here)\n", line);
    if (!WriteNow(line)) lost_lines += lost + 1;
    return;
  }
  if (!WriteNow(line)) ++lost_lines;
}

}  // namespace bulkhead
