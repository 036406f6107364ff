#ifndef BULKHEAD_VMM_PROCESS_CALL_WATCHDOG_H_
#define BULKHEAD_VMM_PROCESS_CALL_WATCHDOG_H_

#include <pthread.h>

#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/running_time.h"

namespace bulkhead::vmm {

// Ends calls into a library that do not return by themselves, because a peer keeps the library
// busy or waiting in ways that its deadlines do not cover. gRPC is one: a peer that sends HTTP/2
// PING frames without end and does not read keeps a call from returning whatever its deadline is,
// and Cancel() does not help.
//
// One thread for all calls of the process. What it does with a call that is not back in time: it
// shuts the call's socket down, so that the library's reads and writes fail; then it sends the
// calling thread a signal now and again until the call returns, which ends a close(2) that waits.
// Thread-safe.
class CallWatchdog {
 public:
  // The process's only one. Started by the first use; ends with the process. Errors: as
  // eventfd(2), pthread_create(3); the next use tries again.
  static absl::StatusOr<CallWatchdog*> Get();

  // One call, on the thread that makes it and for as long as it lasts.
  class Guard {
   public:
    // `socket` is borrowed, of a stream socket. The call is cut once `limit` and then `grace` have
    // passed. Time in which this process did not run is not part of `grace`.
    Guard(CallWatchdog& watchdog, int socket, absl::Duration limit, absl::Duration grace);
    // Another thread is to end the call of `call`, which lives for as long as this: it has `grace`.
    Guard(const Guard& call, absl::Duration grace)
        : Guard(call.watchdog_, call.socket_, absl::ZeroDuration(), grace) {}
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

    // Any thread: the call is not wanted any more, and cut once `grace` has passed.
    void Hurry(absl::Duration grace);
    // The socket was shut down.
    bool cut() const;

   private:
    friend class CallWatchdog;

    CallWatchdog& watchdog_;
    const int socket_;
    const pthread_t thread_;
    // Guarded by watchdog_.mutex_.
    absl::Time limit_;
    absl::Duration grace_;
    std::optional<RunningTime> overdue_;  // since `limit_`
    bool cut_ = false;
  };

 private:
  explicit CallWatchdog(EventFd wake) : wake_(std::move(wake)) {}

  absl::Status Start();
  [[noreturn]] void Run();
  // Looks after all calls. When to look again.
  absl::Time Look(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LookBy(absl::Time when) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EventFd wake_;
  mutable absl::Mutex mutex_;
  std::set<Guard*> calls_ ABSL_GUARDED_BY(mutex_);
  // When the thread looks without being woken. Later than some call's limit only between a change
  // and the signal that follows it under the mutex.
  absl::Time next_look_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_CALL_WATCHDOG_H_
