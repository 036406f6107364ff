#ifndef BULKHEAD_DEVICES_HOST_CONTROL_MAILBOX_H_
#define BULKHEAD_DEVICES_HOST_CONTROL_MAILBOX_H_

#include <stdint.h>

#include <atomic>
#include <deque>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/steady_cond_var.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// Between those who call for something (gRPC's threads) and the one thread that may touch the
// model, which does it. Callers wait, for a bounded time; that thread never waits for them.
class ControlMailbox {
 public:
  enum class Command { kReset, kQuiesce, kResume, kGetMetrics, kShutdown };

  // No caller waits longer, whatever timeout it names.
  static constexpr absl::Duration kMaxWait = absl::Seconds(10);

  // Errors: as eventfd(2).
  static absl::StatusOr<std::unique_ptr<ControlMailbox>> Create();

  // --- For callers, on any thread --------------------------------------------------------------

  // How far the data plane had got, at some time after this was called.
  struct Heartbeat {
    uint64_t generation = 0;  // 0: not attached
    uint64_t progress = 0;
    bool in_long_call = false;  // as in proto/device_control.proto
  };
  // Waits for a sign of life, and no longer than `is_cancelled()` is false, which is asked now and
  // then. Errors: DeadlineExceeded, Cancelled, Unavailable (Close()).
  absl::StatusOr<Heartbeat> AwaitHeartbeat(absl::Duration timeout,
                                           absl::FunctionRef<bool()> is_cancelled);
  // Has a command carried out. Errors: as above, then it is dropped or, where it is under way,
  // abandoned; and what the data plane answers. `metrics`: for kGetMetrics, else nullptr.
  absl::Status Call(Command command, absl::Duration timeout, absl::FunctionRef<bool()> is_cancelled,
                    v1::DeviceMetrics* metrics = nullptr);

  // --- For the thread of the data plane --------------------------------------------------------

  // A command that has been called for.
  class Letter {
   public:
    explicit Letter(Command command) : command(command) {}
    const Command command;
    v1::DeviceMetrics metrics;  // to be filled in before Finish()

   private:
    friend class ControlMailbox;  // whose mutex guards these
    bool finished = false;
    bool abandoned = false;
    absl::Status result;
  };

  // Readable: something is called for, or abandoned. Level-triggered.
  int event_fd() const { return event_.fd(); }
  // To be called then, before one looks.
  void Acknowledge() { event_.Drain(); }

  // Somebody waits for Beat(). Cheap.
  bool heartbeat_wanted() const {
    // relaxed: late is harmless, event_fd() tells as well.
    return heartbeat_wanted_.load(std::memory_order_relaxed);
  }
  void Beat(const Heartbeat& heartbeat);

  // The next command in the order of arrival, or nullptr. `metrics_only`: the next kGetMetrics.
  // To be finished.
  std::shared_ptr<Letter> Take(bool metrics_only);
  bool IsAbandoned(const Letter& letter);
  // Answers. False: too late, the caller was told of an error.
  bool Finish(Letter& letter, absl::Status result);

  // Nothing more will be done: every caller, now and later, is told so.
  void Close();

 private:
  explicit ControlMailbox(EventFd event) : event_(std::move(event)) {}

  // Waits until `done()`, which is called with mutex_ held. Not held all the time.
  absl::Status Await(absl::FunctionRef<bool()> done, absl::Duration timeout,
                     absl::FunctionRef<bool()> is_cancelled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EventFd event_;
  std::atomic<bool> heartbeat_wanted_{false};  // written under mutex_

  absl::Mutex mutex_;
  SteadyCondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t beats_ ABSL_GUARDED_BY(mutex_) = 0;
  Heartbeat heartbeat_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Letter>> letters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_CONTROL_MAILBOX_H_
