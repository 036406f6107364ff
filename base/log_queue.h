#ifndef BULKHEAD_BASE_LOG_QUEUE_H_
#define BULKHEAD_BASE_LOG_QUEUE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead {

// Writes text to a descriptor on its own thread, so that no other thread waits for a terminal or a
// pipe that is not read, or for a file system that hangs. Does not change the descriptor's flags:
// other processes may use it too. Lines that do not fit into the queue are dropped, and a line in
// their place says how many. Thread-safe.
class LogQueue {
 public:
  static constexpr size_t kMaxQueuedBytes = 256 * 1024;

  // Copies `fd` and starts the thread. Errors: as fcntl(2), pthread_create(3).
  static absl::StatusOr<std::unique_ptr<LogQueue>> Create(int fd);
  // Does not wait: a thread that is blocked ends later. Queued lines may be lost.
  ~LogQueue();

  // Queues whole lines, which are written by one write(2). If lines before them were dropped, a
  // line precedes them: `header` and "(2 lines were dropped here)". Never blocks.
  void Append(absl::string_view header, absl::string_view lines);

  // Waits until all queued lines are written or lost. False: that takes longer than `limit`.
  bool Flush(absl::Duration limit);

 private:
  struct State;
  explicit LogQueue(std::shared_ptr<State> state);

  static void Run(State& state);

  const std::shared_ptr<State> state_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_LOG_QUEUE_H_
