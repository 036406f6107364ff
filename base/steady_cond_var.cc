#include "base/steady_cond_var.h"

#include <algorithm>
#include <chrono>

#include "base/steady_time.h"

namespace bulkhead {
namespace {

// Longer waits may return for no reason, and the steady clock must not overflow.
constexpr absl::Duration kLongestWait = absl::Hours(24);

// absl::Mutex under the names that the standard library calls.
class Lockable {
 public:
  explicit Lockable(absl::Mutex* mutex) : mutex_(mutex) {}
  void lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_->Lock(); }
  void unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_->Unlock(); }

 private:
  absl::Mutex* const mutex_;
};

}  // namespace

void SteadyCondVar::Wait(absl::Mutex* mutex) {
  Lockable lockable(mutex);
  changed_.wait(lockable);
}

bool SteadyCondVar::WaitUntil(absl::Mutex* mutex, absl::Time deadline) {
  return WaitFor(mutex, deadline - SteadyNow());
}

bool SteadyCondVar::WaitFor(absl::Mutex* mutex, absl::Duration limit) {
  if (limit <= absl::ZeroDuration()) return false;
  const bool is_longest = limit > kLongestWait;
  const auto until =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(limit, kLongestWait));
  Lockable lockable(mutex);
  return changed_.wait_until(lockable, until) == std::cv_status::no_timeout || is_longest;
}

}  // namespace bulkhead
