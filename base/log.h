#ifndef BULKHEAD_BASE_LOG_H_
#define BULKHEAD_BASE_LOG_H_

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

// Sets the name of this process in its log lines ("vmm", "virtio_blk"), and the lowest level that
// is logged. Call before threads start.
void InitLog(absl::string_view process_name, LogLevel level);

// From now on a thread of the log writes the lines, from a queue (base/log_queue.h): no caller of
// Log() ever waits for standard error. If that thread cannot be started, lines are written as
// before. Call once, before other threads start.
void QueueLog();

// From now on lines begin with the time, and `served` follows the process's name:
// "2026-11-28T17:25:01.123Z vmm[web]: warning: text". Thread-safe.
void DateLog(absl::string_view served);

// If standard error is systemd's journal (JOURNAL_STREAM in the environment names it), lines begin
// with their priority from now on, "<4>vmm[web]: warning: text" (sd-daemon(3)), and without the
// time, which the journal has. True: it is. Call before threads start.
bool MarkLogForJournal();
// What begins a line of that level for the journal, "<4>"; empty: the log is not marked.
absl::string_view JournalMark(LogLevel level);

// Writes to standard error: "vmm: warning: text". Each line of `text` becomes a line with the
// process's name; all are written at once. Lines that standard error does not take are dropped, and
// the next line says how many. Never blocks after QueueLog(), or if standard error is a
// non-blocking pipe; else it does not wait for room, but may wait for another writer. Thread-safe.
// Not for hot paths.
void Log(LogLevel level, absl::string_view text);
// The same for a line of another process, which says itself of which level it is: "vmm: text".
void LogQuoted(LogLevel level, absl::string_view text);

// Waits until the queued lines are written, for `limit` at most. Call before the process ends.
void FlushLog(absl::Duration limit);

inline void LogDebug(absl::string_view text) { Log(LogLevel::kDebug, text); }
inline void LogInfo(absl::string_view text) { Log(LogLevel::kInfo, text); }
inline void LogWarning(absl::string_view text) { Log(LogLevel::kWarning, text); }
inline void LogError(absl::string_view text) { Log(LogLevel::kError, text); }

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_LOG_H_
