#include "vmm/vcpu/vcpu_thread.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/blocked_signals.h"
#include "base/errno_status.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

// By the protocol one kick is enough. Repeating it costs nothing, since the caller waits anyway,
// and turns a lost signal into a short delay.
constexpr absl::Duration kKickInterval = absl::Milliseconds(20);

constexpr absl::Duration kHoldInterval = absl::Milliseconds(1);

constexpr int kKickSignal = SIGUSR1;

// The signal only interrupts system calls: the handler is empty, and SA_RESTART is not set.
void InstallKickSignal() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  sigaction(kKickSignal, &action, nullptr);
}

}  // namespace

VcpuThread::VcpuThread(uint32_t index, std::unique_ptr<Vcpu> vcpu, ExitHandler handler,
                       VmEndLatch& end, std::function<absl::Status()> confine)
    : index_(index),
      vcpu_(std::move(vcpu)),
      handler_(std::move(handler)),
      end_(end),
      confine_(std::move(confine)) {}

absl::Status VcpuThread::Start() {
  InstallKickSignal();
  absl::MutexLock lock(&mutex_);  // the new thread takes it first, so it waits for this function
  const BlockedSignals blocked;   // the thread inherits the mask
  const int error = pthread_create(&thread_, nullptr, &ThreadMain, this);
  if (error != 0) {
    return ErrnoToStatus(error, absl::StrCat("starting the thread of vCPU ", index_));
  }
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
  // relaxed, here and in thread_id(): only a number for reports.
  thread.thread_id_.store(gettid(), std::memory_order_relaxed);
  pthread_setname_np(pthread_self(), absl::StrCat("vcpu", thread.index_).c_str());
  thread.ConfineItself();
  while (thread.AwaitPermissionToRun()) thread.RunUntilInterruptedOrEnded();
  thread.thread_id_.store(0, std::memory_order_relaxed);
  return nullptr;
}

// If it cannot, it ends the VM, and runs no guest code.
void VcpuThread::ConfineItself() {
  if (confine_ == nullptr) return;
  if (const absl::Status status = confine_(); !status.ok()) {
    end_.Report({EndReason::kVmmError,
                 absl::StrCat("the thread of vCPU ", index_, ": ", status.message())});
  }
}

void VcpuThread::RunUntilInterruptedOrEnded() {
  VmEnd end;
  // Checked after each exit: the vCPU whose write ended the VM executes nothing more.
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
  // seq_cst: comes before Run() reads the exit request. Partner: AwaitOutsideGuest(), which
  // reads this after the request; else both would miss each other, and guest code would run on.
  in_guest_.store(true, std::memory_order_seq_cst);
  const VcpuExit exit = vcpu_->Run();
  in_guest_.store(false, std::memory_order_release);  // after all that the guest did
  return exit;
}

// Blocks while paused. False: the thread must end.
bool VcpuThread::AwaitPermissionToRun() {
  bool paused = false;
  bool run = false;
  {
    absl::MutexLock lock(&mutex_);
    vcpu_->ClearExitRequest();
    paused = WaitWhilePaused();
    paused |= std::exchange(note_pause_, false);
    run = request_ == Request::kRun && !end_.reported();
    state_ = run ? State::kRunning : State::kFinished;
    changed_.SignalAll();
  }
  if (paused && run) vcpu_->NotePause();
  return run;
}

bool VcpuThread::ParkWhilePaused() {
  bool paused = false;
  bool resume = false;
  {
    absl::MutexLock lock(&mutex_);
    // The exit stays requested: the next Run() takes the access's result and then finds it.
    paused = WaitWhilePaused();
    note_pause_ = false;
    resume = request_ != Request::kStop;
    state_ = State::kRunning;  // also after a stop request: the thread has yet to leave the access
  }
  if (paused && resume) vcpu_->NotePause();
  return resume;
}

// False: no pause was requested.
bool VcpuThread::WaitWhilePaused() {
  bool paused = false;
  while (request_ == Request::kPause) {
    paused = true;
    state_ = State::kPaused;
    changed_.SignalAll();
    changed_.Wait(&mutex_);
  }
  return paused;
}

void VcpuThread::RequestPause() { SetRequest(Request::kPause); }
void VcpuThread::Resume() { SetRequest(Request::kRun); }
void VcpuThread::RequestStop() { SetRequest(Request::kStop); }

void VcpuThread::SetRequest(Request request) {
  absl::MutexLock lock(&mutex_);
  if (request_ == Request::kStop) return;
  request_ = request;
  note_pause_ |= request == Request::kPause;
  if (request != Request::kRun) Kick();
  changed_.SignalAll();
}

void VcpuThread::Kick() {
  if (state_ != State::kRunning) return;
  vcpu_->RequestExit();
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
    // A thread that leaves the guest for an access does not signal `changed_`.
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
