#include "integration/testbed/launcher/qemu_control.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::testbed {
namespace {

// Without those of the floating point unit: they are half of all, and no help with lock-ups.
bool IsVectorRegister(absl::string_view line) {
  return absl::StartsWith(line, "FCW") || absl::StartsWith(line, "FPR") ||
         absl::StartsWith(line, "XMM") || absl::StartsWith(line, "YMM");
}

}  // namespace

absl::StatusOr<std::string> ReadFromQemu(int fd, absl::Time deadline) {
  const absl::Duration left = std::max(deadline - SteadyNow(), absl::ZeroDuration());
  pollfd event = {fd, POLLIN, 0};
  const int ready = poll(&event, 1, static_cast<int>(absl::ToInt64Milliseconds(left)));
  if (ready < 0) return ErrnoToStatus(errno, "poll");
  if (ready == 0) return absl::DeadlineExceededError("QEMU does not get on");
  char buffer[4096];
  const ssize_t count = read(fd, buffer, sizeof(buffer));
  if (count < 0) return ErrnoToStatus(errno, "read from QEMU");
  if (count == 0) return absl::UnavailableError("QEMU has ended");
  return std::string(buffer, count);
}

absl::StatusOr<std::string> QemuControl::Execute(absl::string_view command) {
  const std::string line = absl::StrCat(command, "\n");
  if (write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return ErrnoToStatus(errno, "write to QEMU");
  }
  while (true) {
    ASSIGN_OR_RETURN(std::string answer, ReadLine());
    if (absl::StartsWith(answer, "{\"return\"")) return answer;
    if (absl::StartsWith(answer, "{\"error\"")) return absl::InternalError(answer);
    // Anything else is the greeting or an event.
  }
}

absl::StatusOr<std::string> QemuControl::ReadLine() {
  size_t end;
  while ((end = received_.find('\n')) == std::string::npos) {
    ASSIGN_OR_RETURN(const std::string bytes, ReadFromQemu(fd_, deadline_));
    received_ += bytes;
  }
  std::string line = received_.substr(0, end);
  received_.erase(0, end + 1);
  return line;
}

absl::StatusOr<std::string> DescribeProcessors(int control_fd, absl::Time deadline) {
  QemuControl control(control_fd, deadline);
  RETURN_IF_ERROR(control.Execute(R"({"execute": "qmp_capabilities"})").status());
  ASSIGN_OR_RETURN(const std::string answer, control.Execute(R"({"execute": "human-monitor-command",
                                       "arguments": {"command-line": "info registers -a"}})"));
  std::string text;
  // A string of JSON, whose lines end so.
  for (const absl::string_view line : absl::StrSplit(answer, "\\r\\n")) {
    if (absl::StartsWith(line, "CPU#") || absl::StrContains(line, "=")) {
      if (!IsVectorRegister(line)) absl::StrAppend(&text, line, "\n");
    }
  }
  return text;
}

}  // namespace bulkhead::testbed
