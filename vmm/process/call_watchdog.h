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

// Cuts calls into a library that do not return because a peer keeps the library busy or waiting in
// ways that its deadlines do not cover. gRPC needs this: a peer that sends HTTP/2 PING frames
// without end and does not read keeps a call from returning, whatever its deadline, and Cancel()
// does not help.
//
// One thread serves all calls of the process. To cut an overdue call, it shuts down the call's
// socket, so that the library's reads and writes fail. Then it sends the calling thread a signal
// every 50 ms until the call returns, which interrupts a close(2) that waits. Thread-safe.
class CallWatchdog {
 public:
  // The only watchdog of the process. The first call starts it; it ends with the process. Errors:
  // as eventfd(2), pthread_create(3); the next call tries again.
  static absl::StatusOr<CallWatchdog*> Get();

  // Guards one call. Lives on the thread that makes the call, for as long as the call lasts.
  class Guard {
   public:
    // `socket` is a borrowed stream socket. The call is cut after `limit` plus `grace`. `grace`
    // counts only time in which this process ran.
    Guard(CallWatchdog& watchdog, int socket, absl::Duration limit, absl::Duration grace)
        : Guard(watchdog, socket, limit, grace, nullptr) {}
    // Guards this thread while it cancels the guarded `call` of another thread. It has `grace`.
    // `call` must outlive this, and counts as cut when this is.
    Guard(Guard& call, absl::Duration grace)
        : Guard(call.watchdog_, call.socket_, absl::ZeroDuration(), grace, &call) {}
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

    // Any thread: ends the call's limit now, so that it is cut after `grace`.
    void Expire(absl::Duration grace);
    // True if the socket was shut down.
    bool cut() const;

   private:
    friend class CallWatchdog;

    Guard(CallWatchdog& watchdog, int socket, absl::Duration limit, absl::Duration grace,
          Guard* cancels);

    CallWatchdog& watchdog_;
    const int socket_;
    Guard* const cancels_;
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
  // Cuts the overdue calls. Returns the time of the next check.
  absl::Time Check(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the thread check at `when` at the latest.
  void CheckBy(absl::Time when) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EventFd wake_;
  mutable absl::Mutex mutex_;
  std::set<Guard*> calls_ ABSL_GUARDED_BY(mutex_);
  // When the thread checks without being woken. Later than a call's limit only between a change
  // and the signal that follows it under the mutex.
  absl::Time next_check_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_CALL_WATCHDOG_H_
