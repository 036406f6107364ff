#ifndef BULKHEAD_BASE_LOG_QUEUE_H_
#define BULKHEAD_BASE_LOG_QUEUE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead {

// Writes text to a descriptor on a thread of its own, so that nobody else ever waits for it: a
// terminal that nobody reads, a full pipe, a file on a file system that hangs. The descriptor's
// flags stay as they are; other processes may use it too. What does not fit into the queue is
// dropped, and a line at that place says so. Thread-safe.
class LogQueue {
 public:
  static constexpr size_t kMaxQueuedBytes = 256 * 1024;

  // Copies `fd` and starts the thread. Errors: as fcntl(2), pthread_create(3).
  static absl::StatusOr<std::unique_ptr<LogQueue>> Create(int fd);
  // Does not wait: a thread that is held up ends once it is not. What is queued may be lost.
  ~LogQueue();

  // Queues whole lines, which are written at once. Where lines were dropped before, a line that
  // says how many comes first: `header` and "(2 lines were dropped here)". Never blocks.
  void Append(absl::string_view header, absl::string_view lines);

  // Waits until all that was queued is written or refused. False: it is not after `limit`.
  bool Flush(absl::Duration limit);

 private:
  struct State;
  explicit LogQueue(std::shared_ptr<State> state);

  static void Run(State& state);

  const std::shared_ptr<State> state_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_LOG_QUEUE_H_
