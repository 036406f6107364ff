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

// Passes commands from callers (gRPC's threads) to the one thread that may touch the model, and the
// results back. Callers wait for a bounded time; that thread never waits for them.
class ControlMailbox {
 public:
  enum class CommandType { kReset, kQuiesce, kResume, kGetMetrics, kShutdown };

  // The most that a caller waits.
  static constexpr absl::Duration kMaxWait = absl::Seconds(10);

  // Errors: as eventfd(2).
  static absl::StatusOr<std::unique_ptr<ControlMailbox>> Create();

  // --- For callers, on any thread --------------------------------------------------------------

  // Waits for the next Beat(). Calls `is_cancelled()` now and then, and gives up when it is true.
  // Errors: DeadlineExceeded, Cancelled, Unavailable (Close()).
  absl::Status AwaitHeartbeat(absl::Duration timeout, absl::FunctionRef<bool()> is_cancelled);
  // Has the data plane execute a command. Errors: the data plane's; and as above, then the command
  // is dropped or, if it is being executed, abandoned. `metrics`: for kGetMetrics, else nullptr.
  absl::Status Call(CommandType type, absl::Duration timeout,
                    absl::FunctionRef<bool()> is_cancelled, v1::DeviceMetrics* metrics = nullptr);

  // --- For the thread of the data plane --------------------------------------------------------

  class Command {
   public:
    explicit Command(CommandType type) : type(type) {}
    const CommandType type;
    v1::DeviceMetrics metrics;  // to be filled in before Finish()

   private:
    friend class ControlMailbox;  // whose mutex guards these
    bool finished = false;
    bool abandoned = false;
    absl::Status result;
  };

  // Readable: a caller wants a heartbeat, has added a command, or has abandoned one.
  // Level-triggered.
  int event_fd() const { return event_.fd(); }
  // Call this then, before looking.
  void Acknowledge() { event_.Drain(); }

  // A caller waits for Beat(). Cheap.
  bool heartbeat_wanted() const {
    // relaxed: late is harmless, event_fd() tells as well.
    return heartbeat_wanted_.load(std::memory_order_relaxed);
  }
  void Beat();

  // Takes the oldest command, or with `metrics_only` the oldest kGetMetrics; nullptr: none. Call
  // Finish() for it.
  std::shared_ptr<Command> Take(bool metrics_only);
  bool IsAbandoned(const Command& command);
  // Answers the caller. False: too late, the caller has given up.
  bool Finish(Command& command, absl::Status result);

  // Makes every call, now and later, return Unavailable.
  void Close();

 private:
  explicit ControlMailbox(EventFd event) : event_(std::move(event)) {}

  // Waits until `done()`, which is called with mutex_ held. Releases mutex_ meanwhile.
  absl::Status Await(absl::FunctionRef<bool()> done, absl::Duration timeout,
                     absl::FunctionRef<bool()> is_cancelled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EventFd event_;
  std::atomic<bool> heartbeat_wanted_{false};  // written under mutex_

  absl::Mutex mutex_;
  SteadyCondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t beats_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::shared_ptr<Command>> commands_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_CONTROL_MAILBOX_H_
