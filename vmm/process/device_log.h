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

// What a device process writes to standard output and error: passed on to the log, line by line,
// each named after the device; the last lines are kept for the report of its failure. The process
// is hostile: lines are cut, control characters escaped, and more lines than kBurstLines at once or
// kLinesPerSecond in the long run are not passed on. Thread-safe.
class DeviceLog {
 public:
  static constexpr size_t kKeptLines = 20;
  static constexpr size_t kMaxLineBytes = 512;  // longer ones are cut
  static constexpr double kBurstLines = 500;
  static constexpr double kLinesPerSecond = 50;

  // Takes one line, without its end. Must not block: it is called under a lock.
  using Sink = std::function<void(absl::string_view line)>;
  DeviceLog(absl::string_view device_name, Sink sink);

  // Lines are kept, not passed on, until PassOnAll(), which also passes on those that are kept.
  // For a process that may fail to start: the report of that has its lines.
  void HoldBack();
  void PassOnAll();

  void Append(absl::string_view bytes);
  // The stream has ended: its last line may have no newline.
  void Finish();

  // The last lines, each with a newline, oldest first.
  std::string LastLines() const;

 private:
  void EndLine() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PassOn(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeAllowance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string prefix_;
  const Sink sink_;
  mutable absl::Mutex mutex_;
  bool holding_back_ ABSL_GUARDED_BY(mutex_) = false;
  std::string line_ ABSL_GUARDED_BY(mutex_);  // the one that is not complete yet
  std::deque<std::string> last_lines_ ABSL_GUARDED_BY(mutex_);
  size_t lost_lines_ ABSL_GUARDED_BY(mutex_) = 0;           // not passed on
  double allowance_ ABSL_GUARDED_BY(mutex_) = kBurstLines;  // lines that may be passed on now
  absl::Time allowance_time_ ABSL_GUARDED_BY(mutex_);       // when it was computed
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_DEVICE_LOG_H_
