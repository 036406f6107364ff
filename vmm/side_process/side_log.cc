#include "vmm/side_process/side_log.h"

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/shared_stream.h"

namespace bulkhead::vmm {

void WriteLogLine(absl::string_view text) {
  const LogLevel level = absl::StartsWith(text, "warning: ") ? LogLevel::kWarning : LogLevel::kInfo;
  std::string begin(JournalMark(level));
  if (begin.empty()) {
    begin = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ ", absl::Now(), absl::UTCTimeZone());
  }
  WriteNow(STDERR_FILENO, absl::StrCat(begin, "vmm: ", text, "\n"));
}

std::string HowItEnded(int status) {
  if (WIFSIGNALED(status)) return absl::StrCat("ended by signal ", WTERMSIG(status));
  return absl::StrCat("ended with exit code ", WEXITSTATUS(status));
}

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000} + now.tv_nsec / 1'000'000;
}

}  // namespace bulkhead::vmm
