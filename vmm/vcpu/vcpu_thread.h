#ifndef BULKHEAD_VMM_VCPU_VCPU_THREAD_H_
#define BULKHEAD_VMM_VCPU_VCPU_THREAD_H_

#include <pthread.h>
#include <stdint.h>

#include <atomic>
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

// The thread of one vCPU: run, handle the exit, run again, until it is told to stop or the VM
// has ended. Thread-safe, except that Start() and Join() have one caller.
//
// How it is made to leave guest code: under `mutex_`, set what is wanted, then
// Vcpu::RequestInterrupt(), then send the thread a signal. A vCPU in guest code leaves by the
// signal; one that is about to enter it finds the request in Vcpu::Run(); one that handles an
// access finishes it, gives the guest its result in the next Run(), and finds the request there.
// So a paused vCPU never has half an access in it. The thread clears the request under `mutex_`
// before it looks at what is wanted: a later request stays set and shows in the next Run().
//
// An access that waits for a device is no time to finish: a pause would wait for the device.
// Whoever waits in it (RemoteDevice) is woken by VcpuThreads, and calls ParkWhilePaused() on the
// thread: that counts as paused although an access is under way. It runs no guest code and touches
// no device until the thread is resumed, and then goes on with the same access. If the thread is
// resumed before it parks, it does not park; if it is paused again meanwhile, it stays. `wanted_`
// alone decides, under `mutex_`.
//
// A VM that is held for a slow device (VcpuThreads::Hold()) is paused likewise, but accesses are
// not cancelled: a vCPU in one goes on waiting for its answer, and finds the request afterwards.
// That no vCPU executes guest code is then seen by `in_guest_`, which the thread sets before it
// enters Vcpu::Run(): either the requester finds it set, or the thread finds the request.
//
// The signal is SIGUSR1, for every VcpuThread of the process; the thread blocks all others. (One of
// the real-time signals is lost where RLIMIT_SIGPENDING is used up.)
class VcpuThread {
 public:
  // `end` must outlive this. A crash is reported there with the vCPU's registers.
  VcpuThread(uint32_t index, std::unique_ptr<Vcpu> vcpu, ExitHandler handler, VmEndLatch& end);
  // The thread must not run: never started, or joined.
  ~VcpuThread() = default;

  // Errors: as pthread_create(3).
  absl::Status Start();

  // These return at once. Stopping is for good.
  void RequestPause();
  void Resume();
  void RequestStop();

  // Waits until the thread is paused, or finished. False: it still runs at `deadline`, of
  // SteadyNow()'s.
  bool AwaitPaused(absl::Time deadline);
  // After RequestPause(): waits until the thread executes no guest code, and will not until it is
  // resumed; it may be in an access. False: it still does at `deadline`.
  bool AwaitOutsideGuest(absl::Time deadline);
  // Waits until the thread is finished, and joins it. False: it still runs at `deadline`.
  bool Join(absl::Time deadline);

  // On this thread, within an access: blocks while a pause is wanted. True: the access is to go
  // on. False: it is to be given up, the thread is to end.
  bool ParkWhilePaused();

  uint32_t index() const { return index_; }

 private:
  enum class State { kNotStarted, kRunning, kPaused, kFinished };
  enum class Wanted { kRun, kPause, kStop };

  static void* ThreadMain(void* self);
  void RunUntilInterruptedOrEnded();
  bool AwaitPermissionToRun();
  bool WaitWhilePaused() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Want(Wanted wanted);
  void Kick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool KickUntil(bool (*reached)(State), absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  VcpuExit RunGuest();

  const uint32_t index_;
  const std::unique_ptr<Vcpu> vcpu_;
  ExitHandler handler_;  // used by the thread alone
  VmEndLatch& end_;

  absl::Mutex mutex_;
  SteadyCondVar changed_;                          // `state_` or `wanted_`
  pthread_t thread_ ABSL_GUARDED_BY(mutex_){};     // valid while `joinable_`
  bool joinable_ ABSL_GUARDED_BY(mutex_) = false;  // from Start() to Join()
  State state_ ABSL_GUARDED_BY(mutex_) = State::kNotStarted;
  Wanted wanted_ ABSL_GUARDED_BY(mutex_) = Wanted::kRun;
  bool note_pause_ ABSL_GUARDED_BY(mutex_) = false;  // a pause was wanted since it last ran
  std::atomic<bool> in_guest_{false};                // written by the thread
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_VCPU_THREAD_H_
