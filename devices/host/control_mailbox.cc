#include "devices/host/control_mailbox.h"

#include <algorithm>

#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::devices {
namespace {

// gRPC tells nobody that a synchronous call was cancelled: it has to be asked.
constexpr absl::Duration kCancellationInterval = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<std::unique_ptr<ControlMailbox>> ControlMailbox::Create() {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return std::unique_ptr<ControlMailbox>(new ControlMailbox(std::move(event)));
}

absl::StatusOr<ControlMailbox::Heartbeat> ControlMailbox::AwaitHeartbeat(
    absl::Duration timeout, absl::FunctionRef<bool()> is_cancelled) {
  absl::MutexLock lock(&mutex_);
  const uint64_t before = beats_;
  heartbeat_wanted_.store(true, std::memory_order_relaxed);
  event_.Signal();
  const auto moved = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return beats_ != before; };
  RETURN_IF_ERROR(Await(moved, timeout, is_cancelled));
  return heartbeat_;
}

absl::Status ControlMailbox::Call(Command command, absl::Duration timeout,
                                  absl::FunctionRef<bool()> is_cancelled,
                                  v1::DeviceMetrics* metrics) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the device is ending");
  const auto letter = std::make_shared<Letter>(command);
  letters_.push_back(letter);
  event_.Signal();
  absl::Status waited = Await([&letter] { return letter->finished; }, timeout, is_cancelled);
  if (!waited.ok()) {
    letter->abandoned = true;
    letters_.erase(std::remove(letters_.begin(), letters_.end(), letter), letters_.end());
    event_.Signal();  // whoever has taken it may undo it
    return waited;
  }
  if (metrics != nullptr) metrics->Swap(&letter->metrics);
  return letter->result;
}

absl::Status ControlMailbox::Await(absl::FunctionRef<bool()> done, absl::Duration timeout,
                                   absl::FunctionRef<bool()> is_cancelled) {
  const absl::Time latest = SteadyNow() + std::min(timeout, kMaxWait);
  while (!done()) {
    if (closed_) return absl::UnavailableError("the device is ending");
    const absl::Duration left = latest - SteadyNow();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError("the device did not get to it in time");
    }
    if (changed_.WaitFor(&mutex_, std::min(left, kCancellationInterval))) continue;
    mutex_.Unlock();  // no call-out under a lock
    const bool cancelled = is_cancelled();
    mutex_.Lock();
    if (cancelled && !done()) return absl::CancelledError("the call was cancelled");
  }
  return absl::OkStatus();
}

void ControlMailbox::Beat(const Heartbeat& heartbeat) {
  absl::MutexLock lock(&mutex_);
  heartbeat_wanted_.store(false, std::memory_order_relaxed);
  heartbeat_ = heartbeat;
  ++beats_;
  changed_.SignalAll();
}

std::shared_ptr<ControlMailbox::Letter> ControlMailbox::Take(bool metrics_only) {
  absl::MutexLock lock(&mutex_);
  const auto found = std::find_if(letters_.begin(), letters_.end(), [&](const auto& letter) {
    return !metrics_only || letter->command == Command::kGetMetrics;
  });
  if (found == letters_.end()) return nullptr;
  std::shared_ptr<Letter> letter = std::move(*found);
  letters_.erase(found);
  return letter;
}

bool ControlMailbox::IsAbandoned(const Letter& letter) {
  absl::MutexLock lock(&mutex_);
  return letter.abandoned;
}

bool ControlMailbox::Finish(Letter& letter, absl::Status result) {
  absl::MutexLock lock(&mutex_);
  letter.result = std::move(result);
  letter.finished = true;
  changed_.SignalAll();
  return !letter.abandoned;
}

void ControlMailbox::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  letters_.clear();
  changed_.SignalAll();
}

}  // namespace bulkhead::devices
