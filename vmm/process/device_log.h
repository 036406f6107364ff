#ifndef BULKHEAD_VMM_PROCESS_DEVICE_LOG_H_
#define BULKHEAD_VMM_PROCESS_DEVICE_LOG_H_

#include <stddef.h>

#include <deque>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace bulkhead::vmm {

// Forwards what a device process writes to standard output and error to the log, line by line, each
// with the device's name. Keeps the last lines for the report of its failure. The process may be
// hostile: long lines are cut, control characters are escaped, and lines beyond kBurstLines at once
// or kLinesPerSecond in the long run are dropped. Thread-safe.
class DeviceLog {
 public:
  static constexpr size_t kKeptLines = 20;
  static constexpr size_t kMaxLineBytes = 512;  // longer ones are cut
  static constexpr double kBurstLines = 500;
  static constexpr double kLinesPerSecond = 50;

  // Takes one line, without its newline. Must not block: it is called under a lock.
  using Sink = std::function<void(absl::string_view line)>;
  DeviceLog(absl::string_view device_name, Sink sink);

  // Buffer() keeps lines instead of forwarding them, until ForwardAll(), which also forwards the
  // kept lines. For a process that may fail to start: the report of the failure contains its lines.
  // A line that comes more than two seconds after the start ends it, too.
  void Buffer();
  void ForwardAll();

  void Append(absl::string_view bytes);
  // Call at the end of the stream: its last line may have no newline.
  void Finish();

  // The last lines, each with a newline, oldest first.
  std::string LastLines() const;

 private:
  void EndLine() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forward(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeAllowance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string prefix_;
  const Sink sink_;
  mutable absl::Mutex mutex_;
  bool buffering_ ABSL_GUARDED_BY(mutex_) = false;
  std::string line_ ABSL_GUARDED_BY(mutex_);  // not complete yet
  std::deque<std::string> last_lines_ ABSL_GUARDED_BY(mutex_);
  size_t dropped_lines_ ABSL_GUARDED_BY(mutex_) = 0;        // since the last forwarded line
  double allowance_ ABSL_GUARDED_BY(mutex_) = kBurstLines;  // lines that may be forwarded now
  absl::Time allowance_time_ ABSL_GUARDED_BY(mutex_);       // when it was computed
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_DEVICE_LOG_H_
