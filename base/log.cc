#include "base/log.h"

#include <unistd.h>

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

}  // namespace

void InitLog(absl::string_view process_name, LogLevel level) {
  ProcessName() = std::string(process_name);
  minimum_level = level;
}

void Log(LogLevel level, absl::string_view text) {
  if (level < minimum_level) return;
  const std::string line = absl::StrCat(ProcessName(), ": ", Prefix(level), text, "\n");
  // Nobody can be told that standard error is gone.
  [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace bulkhead
