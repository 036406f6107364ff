#include "base/log.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>

#include "absl/base/const_init.h"
#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/log_queue.h"
#include "base/shared_stream.h"

namespace bulkhead {
namespace {

ABSL_CONST_INIT absl::Mutex name_mutex(absl::kConstInit);

// Never destroyed: threads may log while the process ends.
std::string& ProcessName() ABSL_EXCLUSIVE_LOCKS_REQUIRED(name_mutex) {
  static std::string& name = *new std::string("bulkhead");
  return name;
}
bool is_dated ABSL_GUARDED_BY(name_mutex) = false;

// Set before threads start.
LogLevel minimum_level = LogLevel::kInfo;
LogQueue* queue = nullptr;
bool is_marked = false;  // for the journal

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

// What each line begins with.
std::string Header(LogLevel level) {
  absl::MutexLock lock(&name_mutex);
  if (is_marked) return absl::StrCat(JournalMark(level), ProcessName(), ": ");
  if (!is_dated) return absl::StrCat(ProcessName(), ": ");
  return absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()),
                      " ", ProcessName(), ": ");
}

void WriteDirectly(absl::string_view header, absl::string_view lines) {
  // relaxed: a count, which orders nothing.
  static std::atomic<uint64_t> dropped_lines{0};
  const uint64_t dropped = dropped_lines.exchange(0, std::memory_order_relaxed);
  std::string text;
  if (dropped != 0) text = absl::StrCat(header, "(", dropped, " lines were dropped here)\n");
  absl::StrAppend(&text, lines);
  if (WriteNow(STDERR_FILENO, text)) return;
  dropped_lines.fetch_add(dropped + std::count(lines.begin(), lines.end(), '\n'),
                          std::memory_order_relaxed);
}

void Write(LogLevel level, absl::string_view prefix, absl::string_view text) {
  if (level < minimum_level) return;
  const std::string header = Header(level);
  std::string lines;
  for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    absl::StrAppend(&lines, header, prefix, line, "\n");
    prefix = "";
  }
  if (queue != nullptr) {
    queue->Append(header, lines);
  } else {
    WriteDirectly(header, lines);
  }
}

}  // namespace

void InitLog(absl::string_view process_name, LogLevel level) {
  absl::MutexLock lock(&name_mutex);
  ProcessName() = std::string(process_name);
  minimum_level = level;
}

void QueueLog() {
  absl::StatusOr<std::unique_ptr<LogQueue>> created = LogQueue::Create(STDERR_FILENO);
  // Never destroyed: threads may log while the process ends.
  if (created.ok()) queue = created->release();
}

void DateLog(absl::string_view served) {
  absl::MutexLock lock(&name_mutex);
  absl::StrAppend(&ProcessName(), "[", served, "]");
  is_dated = true;
}

bool MarkLogForJournal() {
  const char* const journal = getenv("JOURNAL_STREAM");  // "DEVICE:INODE"
  struct stat info;
  is_marked = journal != nullptr && fstat(STDERR_FILENO, &info) == 0 &&
              absl::StrCat(info.st_dev, ":", info.st_ino) == journal;
  return is_marked;
}

absl::string_view JournalMark(LogLevel level) {
  if (!is_marked) return "";
  switch (level) {  // syslog(3)'s numbers
    case LogLevel::kDebug:
      return "<7>";
    case LogLevel::kInfo:
      return "<6>";
    case LogLevel::kWarning:
      return "<4>";
    case LogLevel::kError:
      return "<3>";
  }
  return "";
}

void Log(LogLevel level, absl::string_view text) { Write(level, Prefix(level), text); }

void LogQuoted(LogLevel level, absl::string_view text) { Write(level, "", text); }

void FlushLog(absl::Duration limit) {
  if (queue != nullptr) queue->Flush(limit);
}

}  // namespace bulkhead
