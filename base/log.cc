#include "base/log.h"

#include <stdint.h>
#include <unistd.h>

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/write_now.h"

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

}  // namespace

void InitLog(absl::string_view process_name, LogLevel level) {
  ProcessName() = std::string(process_name);
  minimum_level = level;
}

void Log(LogLevel level, absl::string_view text) {
  if (level < minimum_level) return;
  static std::atomic<uint64_t> lost_lines{0};
  std::string line = absl::StrCat(ProcessName(), ": ", Prefix(level), text, "\n");
  const uint64_t lost = lost_lines.exchange(0);
  if (lost != 0) line = absl::StrCat(ProcessName(), ": (", lost, " lines were lost here)\n", line);
  if (!WriteNow(STDERR_FILENO, line)) lost_lines += lost + 1;
}

}  // namespace bulkhead
