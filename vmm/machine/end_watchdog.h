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

// Ends the process if the VM does not end in time after it was told to. Whatever the other threads
// wait for then (a device, a file, a lock), this one leaves by _exit(2), with the exit code that
// the VM's end has, once it has said what is being waited for and has undone what must not outlive
// the process. The limits leave out time in which the process did not run (base/running_time.h).
//
//   EndWatchdog* const watchdog = *EndWatchdog::Start();
//   const EndWatchdog::LastAct unlink = watchdog->AddLastAct([path] { ::unlink(path.c_str()); });
//   ...
//   watchdog->Begin(exit_code);   // the VM is told to end
//   watchdog->SetStep([] { return "device 'disk' to end"; });
//
// Thread-safe.
class EndWatchdog {
 public:
  struct Limits {
    absl::Duration say_after = absl::Seconds(2);  // after Begin(): a warning that names the step
    absl::Duration leave_after = absl::Seconds(5);
    int exit_request_fd = -1;  // readable (a signalfd): as Begin(exit_request_code)
    int exit_request_code = 0;
  };

  // The object and its threads stay until the process ends: nothing destroys them. All that the end
  // takes is there from now on, since the host may have no thread and no descriptor left by then.
  // Errors: as eventfd(2), pthread_create(3).
  static absl::StatusOr<EndWatchdog*> Start(const Limits& limits);

  // The VM is to end; the first call counts. Returns at once.
  void Begin(int exit_code);

  // What the end waits for from now on. `describe` is called on the watchdog's thread while it
  // is the current step; it must neither block nor take a lock that is held during a wait.
  void SetStep(std::function<std::string()> describe);
  void SetStep(absl::string_view step) {
    SetStep([text = std::string(step)] { return text; });
  }

  // Something that _exit(2) would leave undone. While this lives, `act` is called before the
  // process leaves, on a thread that only calls these: one that blocks delays the end by half a
  // second, and keeps the later ones from being called.
  class LastAct {
   public:
    LastAct(LastAct&& other) noexcept : watchdog_(std::exchange(other.watchdog_, nullptr)) {
      id_ = other.id_;
    }
    LastAct& operator=(LastAct&&) = delete;
    ~LastAct();

   private:
    friend class EndWatchdog;
    LastAct(EndWatchdog* watchdog, int id) : watchdog_(watchdog), id_(id) {}

    EndWatchdog* watchdog_;
    int id_ = 0;
  };
  [[nodiscard]] LastAct AddLastAct(std::function<void()> act);

 private:
  // A thread that carries out what may block: stand at a terminal that nobody reads, or at a lock.
  class Helper {
   public:
    // Once. Errors: as pthread_create(3).
    absl::Status Start();
    // Goes on after a moment whether `act` has returned or not. Does nothing if an earlier one has
    // not.
    void CallForAMoment(std::function<void()> act);

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
  void DoLastActs();
  [[noreturn]] void Leave(int exit_code);

  const Limits limits_;
  const EventFd begun_;
  Helper speaker_;
  Helper actor_;

  absl::Mutex code_mutex_;
  std::optional<int> exit_code_ ABSL_GUARDED_BY(code_mutex_);
  // A mutex each, held while they are called: one that blocks does not keep the others from it.
  absl::Mutex step_mutex_;
  std::function<std::string()> step_ ABSL_GUARDED_BY(step_mutex_);
  absl::Mutex acts_mutex_;
  std::map<int, std::function<void()>> last_acts_ ABSL_GUARDED_BY(acts_mutex_);
  int next_id_ ABSL_GUARDED_BY(acts_mutex_) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_END_WATCHDOG_H_
