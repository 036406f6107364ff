#ifndef BULKHEAD_VMM_MACHINE_WORK_QUEUE_H_
#define BULKHEAD_VMM_MACHINE_WORK_QUEUE_H_

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/event_fd.h"

namespace bulkhead::vmm {

// Runs functions of any thread on one certain thread, which also waits for other events.
// Thread-safe; only that one thread may call Run().
class WorkQueue {
 public:
  // Errors: as eventfd(2).
  static absl::StatusOr<std::unique_ptr<WorkQueue>> Create();

  // False: the queue is closed, and `work` will not be called.
  bool Add(std::function<void()> work);
  // Readable while there is work.
  int fd() const { return event_.fd(); }
  // Runs all queued work in its order.
  void Run();
  // Refuses further work. Queued work stays for Run().
  void Close();

 private:
  explicit WorkQueue(EventFd event) : event_(std::move(event)) {}

  const EventFd event_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_WORK_QUEUE_H_
