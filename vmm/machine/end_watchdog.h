#ifndef BULKHEAD_VMM_MACHINE_END_WATCHDOG_H_
#define BULKHEAD_VMM_MACHINE_END_WATCHDOG_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/steady_cond_var.h"

namespace bulkhead::vmm {

// Ends the process if the VM does not end in time after its end was requested. Whatever the other
// threads wait for then (a device, a file, a lock), the watchdog's thread logs what the end waits
// for, calls the exit actions, which undo what must not outlive the process, and calls _exit(2)
// with the exit code of the VM's end. The limits count only time in which the process ran
// (base/running_time.h).
//
//   EndWatchdog* const watchdog = *EndWatchdog::Start();
//   const EndWatchdog::ExitAction unlink =
//       watchdog->AddExitAction([path] { ::unlink(path.c_str()); });
//   ...
//   watchdog->Begin(exit_code);   // the end of the VM is requested
//   watchdog->SetStep([] { return "device 'disk'"; });
//
// Thread-safe.
class EndWatchdog {
 public:
  struct Limits {
    absl::Duration warn_after = absl::Seconds(2);  // after Begin(): a warning that names the step
    absl::Duration exit_after = absl::Seconds(5);
    int exit_request_fd = -1;  // readable (a signalfd): as Begin(exit_request_code)
    int exit_request_code = 0;
  };

  // The object and its threads live until the process ends. All threads and descriptors that the
  // end needs are created now, since the host may lack them later. Errors: as eventfd(2),
  // pthread_create(3).
  static absl::StatusOr<EndWatchdog*> Start(const Limits& limits);

  // Call when the VM's end is requested. Only the first call has an effect. Returns at once.
  void Begin(int exit_code);

  // Sets what the end waits for from now on. `describe` is called on the watchdog's thread while it
  // is the current step; it must neither block nor take a lock that is held during a wait.
  void SetStep(std::function<std::string()> describe);
  void SetStep(absl::string_view step) {
    SetStep([text = std::string(step)] { return text; });
  }

  // An action before _exit(2). While this object lives, the watchdog calls the action before it
  // ends the process, on a thread for exit actions only. An action that blocks delays the exit by
  // half a second, and later actions are not called.
  class ExitAction {
   public:
    ExitAction(ExitAction&& other) noexcept : watchdog_(std::exchange(other.watchdog_, nullptr)) {
      id_ = other.id_;
    }
    ExitAction& operator=(ExitAction&&) = delete;
    ~ExitAction();

   private:
    friend class EndWatchdog;
    ExitAction(EndWatchdog* watchdog, int id) : watchdog_(watchdog), id_(id) {}

    EndWatchdog* watchdog_;
    int id_ = 0;
  };
  [[nodiscard]] ExitAction AddExitAction(std::function<void()> act);

 private:
  // A thread for calls that may block, for example on a terminal that is not read, or on a lock.
  class Helper {
   public:
    // Call once. Errors: as pthread_create(3).
    absl::Status Start();
    // Calls `act` on the thread. Returns when it has returned, or after kCallTimeout. Does nothing
    // if an earlier one has not returned.
    void CallBounded(std::function<void()> act);

   private:
    void Run();

    absl::Mutex mutex_;
    SteadyCondVar changed_;
    std::function<void()> act_ ABSL_GUARDED_BY(mutex_);  // none: it is idle
  };

  EndWatchdog(const Limits& limits, EventFd begun) : limits_(limits), begun_(std::move(begun)) {}

  void Run();
  int AwaitBegin();
  std::string Step();
  void CallExitActions();
  [[noreturn]] void Exit(int exit_code);

  const Limits limits_;
  const EventFd begun_;
  Helper logger_;
  Helper action_caller_;

  absl::Mutex code_mutex_;
  std::optional<int> exit_code_ ABSL_GUARDED_BY(code_mutex_);
  // Each mutex is held during the calls: separate ones, so that a blocked call of one kind does not
  // block the other.
  absl::Mutex step_mutex_;
  std::function<std::string()> step_ ABSL_GUARDED_BY(step_mutex_);
  absl::Mutex actions_mutex_;
  std::map<int, std::function<void()>> exit_actions_ ABSL_GUARDED_BY(actions_mutex_);
  int next_id_ ABSL_GUARDED_BY(actions_mutex_) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_END_WATCHDOG_H_
