#ifndef BULKHEAD_BASE_CLOSE_ELSEWHERE_H_
#define BULKHEAD_BASE_CLOSE_ELSEWHERE_H_

#include <stddef.h>

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/steady_cond_var.h"
#include "base/unique_fd.h"

namespace bulkhead {

// Counts the descriptors of one owner that CloseElsewhere() has not closed yet. An owner that waits
// while the count is high keeps it bounded. Thread-safe.
class PendingCloses {
 public:
  size_t count() const;
  // Waits until the count is below `limit`. False: it still is not after `timeout`.
  bool WaitForFewerThan(size_t limit, absl::Duration timeout) const;

  void Add(size_t closes);
  void Done();

 private:
  mutable absl::Mutex mutex_;
  mutable SteadyCondVar fewer_;
  size_t count_ ABSL_GUARDED_BY(mutex_) = 0;
};

inline constexpr size_t kMaxClosers = 16;

// Closes descriptors on threads that do nothing else, and returns at once. For descriptors from an
// untrusted process, and for sockets that may hold such descriptors: close(2) may block for ever (a
// socket with SO_LINGER, a file of a FUSE server that hangs). If kMaxClosers closes block, further
// ones wait for them; if that lasts, the next call logs a warning. If no thread can be started, the
// closes wait until the next call of any function here. Thread-safe.
void CloseElsewhere(std::vector<UniqueFd> descriptors,
                    const std::shared_ptr<PendingCloses>& owner = {});
void CloseElsewhere(UniqueFd descriptor, const std::shared_ptr<PendingCloses>& owner = {});

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_CLOSE_ELSEWHERE_H_
