#ifndef BULKHEAD_BASE_LOG_H_
#define BULKHEAD_BASE_LOG_H_

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

// Names this process in its log lines ("vmm", "virtio_blk") and drops what is below `level`. Call
// before threads start.
void InitLog(absl::string_view process_name, LogLevel level);

// From now on lines are written by a thread of their own, and what standard error does not take
// waits in a queue: no caller of Log() ever waits, whatever standard error is (base/log_queue.h).
// Where no thread can be made, lines are written as before. Call once, before threads start.
void QueueLog();

// From now on lines begin with the time and with what this process serves:
// "2026-11-28T17:25:01.123Z vmm[web]: warning: text". Thread-safe.
void DateLog(absl::string_view served);

// Writes to standard error: "vmm: warning: text". A text of several lines becomes as many, each of
// which names this process, written at once. Never blocks where QueueLog() was called or standard
// error is a non-blocking pipe; elsewhere it does not wait for room, but may for another writer.
// What standard error does not take is dropped, and the next line says how much. Thread-safe.
// Never on a hot path.
void Log(LogLevel level, absl::string_view text);

// Waits until the queued lines are written, for `limit` at most. Before the process ends.
void FlushLog(absl::Duration limit);

inline void LogDebug(absl::string_view text) { Log(LogLevel::kDebug, text); }
inline void LogInfo(absl::string_view text) { Log(LogLevel::kInfo, text); }
inline void LogWarning(absl::string_view text) { Log(LogLevel::kWarning, text); }
inline void LogError(absl::string_view text) { Log(LogLevel::kError, text); }

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_LOG_H_
