#ifndef BULKHEAD_BASE_STEADY_COND_VAR_H_
#define BULKHEAD_BASE_STEADY_COND_VAR_H_

#include <condition_variable>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace bulkhead {

// A condition variable whose timed waits use the steady clock. Those of this abseil version
// (CondVar, Mutex::AwaitWithTimeout, Notification) use the wall clock: if that is set back by an
// hour, a wait of 20 ms takes an hour. Thread-safe.
class SteadyCondVar {
 public:
  SteadyCondVar() = default;
  SteadyCondVar(const SteadyCondVar&) = delete;
  SteadyCondVar& operator=(const SteadyCondVar&) = delete;

  // Releases `mutex`, waits for a signal, and locks it again. May return without a signal: wait in
  // a loop that checks the condition.
  void Wait(absl::Mutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // The same. False: SteadyNow() has reached `deadline`.
  bool WaitUntil(absl::Mutex* mutex, absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool WaitFor(absl::Mutex* mutex, absl::Duration limit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  void Signal() { changed_.notify_one(); }
  void SignalAll() { changed_.notify_all(); }

 private:
  std::condition_variable_any changed_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_STEADY_COND_VAR_H_
