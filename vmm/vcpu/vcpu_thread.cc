#include "vmm/vcpu/vcpu_thread.h"

#include <signal.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/blocked_signals.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

// One kick is enough by the protocol. Repeating it costs nothing where somebody waits anyway, and
// turns a signal that got lost for whatever reason into a short delay.
constexpr absl::Duration kKickInterval = absl::Milliseconds(20);

constexpr absl::Duration kHoldInterval = absl::Milliseconds(1);

constexpr int kKickSignal = SIGUSR1;

// The signal's only purpose is to interrupt system calls, so none is to be restarted.
void InstallKickSignal() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  sigaction(kKickSignal, &action, nullptr);
}

}  // namespace

VcpuThread::VcpuThread(uint32_t index, std::unique_ptr<Vcpu> vcpu, ExitHandler handler,
                       VmEndLatch& end)
    : index_(index), vcpu_(std::move(vcpu)), handler_(std::move(handler)), end_(end) {}

absl::Status VcpuThread::Start() {
  InstallKickSignal();
  absl::MutexLock lock(&mutex_);  // the thread's first act waits for it
  const BlockedSignals blocked;   // the thread inherits the mask
  const int error = pthread_create(&thread_, nullptr, &ThreadMain, this);
  if (error != 0) {
    return ErrnoToStatus(error, absl::StrCat("starting the thread of vCPU ", index_));
  }
  pthread_setname_np(thread_, absl::StrCat("vcpu", index_).c_str());
  joinable_ = true;
  state_ = State::kRunning;
  return absl::OkStatus();
}

void* VcpuThread::ThreadMain(void* self) {
  sigset_t kick;
  sigemptyset(&kick);
  sigaddset(&kick, kKickSignal);
  pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);

  VcpuThread& thread = *static_cast<VcpuThread*>(self);
  while (thread.AwaitPermissionToRun()) thread.RunUntilInterruptedOrEnded();
  return nullptr;
}

void VcpuThread::RunUntilInterruptedOrEnded() {
  VmEnd end;
  // Asked after each exit: the vCPU whose write ended the VM executes nothing more.
  while (!end_.reported()) {
    switch (handler_.Handle(RunGuest(), end)) {
      case ExitHandler::Next::kRun:
        break;
      case ExitHandler::Next::kCheckRequests:
        return;
      case ExitHandler::Next::kEndVm:
        end_.Report(std::move(end));
        return;
      case ExitHandler::Next::kCrashVm:
        end.message =
            absl::StrCat("vCPU ", index_, ": ", end.message, ": ", vcpu_->DescribeState());
        end_.Report(std::move(end));
        return;
    }
  }
}

VcpuExit VcpuThread::RunGuest() {
  // seq_cst: before the look at the interrupt request in Run(). Partner: AwaitOutsideGuest(), which
  // looks here after the request; else both would miss each other, and guest code would run on.
  in_guest_.store(true, std::memory_order_seq_cst);
  const VcpuExit exit = vcpu_->Run();
  in_guest_.store(false, std::memory_order_release);  // what the guest did comes before
  return exit;
}

// Blocks while paused. False: the thread is to end.
bool VcpuThread::AwaitPermissionToRun() {
  bool paused = false;
  bool run = false;
  {
    absl::MutexLock lock(&mutex_);
    vcpu_->ClearInterrupt();
    paused = WaitWhilePaused();
    paused |= std::exchange(note_pause_, false);
    run = wanted_ == Wanted::kRun && !end_.reported();
    state_ = run ? State::kRunning : State::kFinished;
    changed_.SignalAll();
  }
  if (paused && run) vcpu_->NotePause();
  return run;
}

bool VcpuThread::ParkWhilePaused() {
  bool paused = false;
  bool go_on = false;
  {
    absl::MutexLock lock(&mutex_);
    // The interrupt stays requested: the next Run() takes the access's result and finds it.
    paused = WaitWhilePaused();
    note_pause_ = false;
    go_on = wanted_ != Wanted::kStop;
    state_ = State::kRunning;  // also if it is to stop: it has yet to leave the access
  }
  if (paused && go_on) vcpu_->NotePause();
  return go_on;
}

// False: no pause was wanted.
bool VcpuThread::WaitWhilePaused() {
  bool paused = false;
  while (wanted_ == Wanted::kPause) {
    paused = true;
    state_ = State::kPaused;
    changed_.SignalAll();
    changed_.Wait(&mutex_);
  }
  return paused;
}

void VcpuThread::RequestPause() { Want(Wanted::kPause); }
void VcpuThread::Resume() { Want(Wanted::kRun); }
void VcpuThread::RequestStop() { Want(Wanted::kStop); }

void VcpuThread::Want(Wanted wanted) {
  absl::MutexLock lock(&mutex_);
  if (wanted_ == Wanted::kStop) return;
  wanted_ = wanted;
  note_pause_ |= wanted == Wanted::kPause;
  if (wanted != Wanted::kRun) Kick();
  changed_.SignalAll();
}

void VcpuThread::Kick() {
  if (state_ != State::kRunning) return;
  vcpu_->RequestInterrupt();
  pthread_kill(thread_, kKickSignal);
}

bool VcpuThread::KickUntil(bool (*reached)(State), absl::Time deadline) {
  while (!reached(state_)) {
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    Kick();
    changed_.WaitFor(&mutex_, std::min(left, kKickInterval));
  }
  return true;
}

bool VcpuThread::AwaitPaused(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  return KickUntil([](State state) { return state != State::kRunning; }, deadline);
}

bool VcpuThread::AwaitOutsideGuest(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  while (state_ == State::kRunning && in_guest_.load(std::memory_order_seq_cst)) {
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    Kick();
    // Who comes out of the guest into an access does not signal.
    changed_.WaitFor(&mutex_, std::min(left, kHoldInterval));
  }
  return true;
}

bool VcpuThread::Join(absl::Time deadline) {
  pthread_t thread;
  {
    absl::MutexLock lock(&mutex_);
    if (!joinable_) return true;
    if (!KickUntil([](State state) { return state == State::kFinished; }, deadline)) return false;
    joinable_ = false;
    thread = thread_;
  }
  pthread_join(thread, nullptr);
  return true;
}

}  // namespace bulkhead::vmm
