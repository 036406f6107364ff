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

// How many descriptors of one owner CloseElsewhere() has not closed yet. An owner that takes no
// further ones while there are too many keeps their number bounded. Thread-safe.
class PendingCloses {
 public:
  size_t count() const;
  // Waits until there are fewer than `limit`. False: there are not after `timeout`.
  bool WaitForFewerThan(size_t limit, absl::Duration timeout) const;

  void Add(size_t closes);
  void Done();

 private:
  mutable absl::Mutex mutex_;
  mutable SteadyCondVar fewer_;
  size_t count_ ABSL_GUARDED_BY(mutex_) = 0;
};

inline constexpr size_t kMaxClosers = 16;

// Closes descriptors that came from a process that is not trusted, or a socket in which such
// descriptors may wait, on threads of this process that do nothing else: closing one may block for
// ever (a socket with SO_LINGER, a file of a FUSE server that hangs). Up to kMaxClosers closes may
// block before others wait for them; if that lasts, the next call warns. Where no thread can be
// started, they wait until the next call of any of these functions. Returns at once. Thread-safe.
void CloseElsewhere(std::vector<UniqueFd> descriptors, std::shared_ptr<PendingCloses> owner = {});
void CloseElsewhere(UniqueFd descriptor, std::shared_ptr<PendingCloses> owner = {});

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_CLOSE_ELSEWHERE_H_
