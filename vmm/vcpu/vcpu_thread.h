#ifndef BULKHEAD_VMM_VCPU_VCPU_THREAD_H_
#define BULKHEAD_VMM_VCPU_VCPU_THREAD_H_

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/steady_cond_var.h"
#include "vmm/hypervisor/vcpu.h"
#include "vmm/vcpu/exit_handler.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// The thread of one vCPU: runs it, handles the exit, runs it again, until a stop is requested or
// the VM has ended. Thread-safe, except that Start() and Join() have one caller.
//
// How a requester makes the vCPU leave guest code: under `mutex_`, it sets `request_`, then calls
// Vcpu::RequestExit(), then sends the thread a signal. A vCPU in guest code leaves by the signal.
// One that is about to enter it finds the exit request in Vcpu::Run(). One that handles an access
// finishes it, gives the guest its result in the next Run(), and finds the exit request there. So a
// paused vCPU never has a half-done access. The thread clears the exit request under `mutex_`
// before it reads `request_`: a later one stays set and is found by the next Run().
//
// A pause does not wait for an access that waits for a device. VcpuThreads wakes the waiter
// (RemoteDevice), which calls ParkWhilePaused() on the thread. A parked thread counts as paused
// although an access is in flight: until it is resumed it runs no guest code and touches no device,
// and then it continues the same access. If the thread is resumed before it parks, it does not
// park. If it is paused again before it wakes up, it stays parked. `request_` alone decides, under
// `mutex_`.
//
// A VM that is held for a slow device (VcpuThreads::Hold()) is paused likewise, but accesses are
// not cancelled: a vCPU in one waits on for its answer and finds the exit request afterwards.
// `in_guest_` then shows whether a vCPU executes guest code. The thread sets it before it enters
// Vcpu::Run(): either the requester finds it set, or the thread finds the exit request.
//
// The signal is SIGUSR1, for every VcpuThread of the process; the thread blocks all others. (A
// real-time signal is lost if RLIMIT_SIGPENDING is used up.)
class VcpuThread {
 public:
  // `end` must outlive this. A crash is reported there with the vCPU's registers.
  // `confine`: see VcpuThreads.
  VcpuThread(uint32_t index, std::unique_ptr<Vcpu> vcpu, ExitHandler handler, VmEndLatch& end,
             std::function<absl::Status()> confine);
  // The thread must not run: never started, or joined.
  ~VcpuThread() = default;

  // Errors: as pthread_create(3).
  absl::Status Start();

  // These return at once. A stop is final.
  void RequestPause();
  void Resume();
  void RequestStop();

  // Waits until the thread is paused or finished. False: it still runs at `deadline`, a time of
  // SteadyNow().
  bool AwaitPaused(absl::Time deadline);
  // Call after RequestPause(). Waits until the thread executes no guest code and will execute none
  // before it is resumed; it may be in an access. False: it still executes it at `deadline`.
  bool AwaitOutsideGuest(absl::Time deadline);
  // Waits until the thread is finished and joins it. False: it still runs at `deadline`.
  bool Join(absl::Time deadline);

  // Call on this thread, within an access. Blocks while a pause is requested. True: continue the
  // access. False: give it up, since the thread must end.
  bool ParkWhilePaused();

  uint32_t index() const { return index_; }
  // The kernel's number of the thread; 0: it does not run.
  pid_t thread_id() const { return thread_id_.load(std::memory_order_relaxed); }

 private:
  enum class State { kNotStarted, kRunning, kPaused, kFinished };
  enum class Request { kRun, kPause, kStop };

  static void* ThreadMain(void* self);
  void ConfineItself();
  void RunUntilInterruptedOrEnded();
  bool AwaitPermissionToRun();
  bool WaitWhilePaused() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetRequest(Request request);
  void Kick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool KickUntil(bool (*reached)(State), absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  VcpuExit RunGuest();

  const uint32_t index_;
  const std::unique_ptr<Vcpu> vcpu_;
  ExitHandler handler_;  // used by the thread alone
  VmEndLatch& end_;
  const std::function<absl::Status()> confine_;

  absl::Mutex mutex_;
  SteadyCondVar changed_;                          // `state_` or `request_`
  pthread_t thread_ ABSL_GUARDED_BY(mutex_){};     // valid while `joinable_`
  bool joinable_ ABSL_GUARDED_BY(mutex_) = false;  // from Start() to Join()
  State state_ ABSL_GUARDED_BY(mutex_) = State::kNotStarted;
  Request request_ ABSL_GUARDED_BY(mutex_) = Request::kRun;
  bool note_pause_ ABSL_GUARDED_BY(mutex_) = false;  // a pause was requested since it last ran
  std::atomic<bool> in_guest_{false};                // written by the thread
  std::atomic<pid_t> thread_id_{0};                  // likewise
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_VCPU_THREAD_H_
