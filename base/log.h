#ifndef BULKHEAD_BASE_LOG_H_
#define BULKHEAD_BASE_LOG_H_

#include "absl/strings/string_view.h"

namespace bulkhead {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

// Names this process in its log lines ("vmm", "virtio_blk disk0") and drops what is below
// `level`. Call once, before threads start.
void InitLog(absl::string_view process_name, LogLevel level);

// Writes one line to standard error: "vmm: warning: text". One write(2), so lines of several
// processes on one terminal do not mix. Never blocks: a line that standard error does not take is
// lost, and the next one that it takes says so. Thread-safe. Never on a hot path.
void Log(LogLevel level, absl::string_view text);

inline void LogDebug(absl::string_view text) { Log(LogLevel::kDebug, text); }
inline void LogInfo(absl::string_view text) { Log(LogLevel::kInfo, text); }
inline void LogWarning(absl::string_view text) { Log(LogLevel::kWarning, text); }
inline void LogError(absl::string_view text) { Log(LogLevel::kError, text); }

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_LOG_H_
