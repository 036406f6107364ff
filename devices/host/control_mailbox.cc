#include "devices/host/control_mailbox.h"

#include <algorithm>

#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::devices {
namespace {

// gRPC does not notify of the cancellation of a synchronous call: it has to be polled.
constexpr absl::Duration kCancellationInterval = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<std::unique_ptr<ControlMailbox>> ControlMailbox::Create() {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return std::unique_ptr<ControlMailbox>(new ControlMailbox(std::move(event)));
}

absl::Status ControlMailbox::AwaitHeartbeat(absl::Duration timeout,
                                            absl::FunctionRef<bool()> is_cancelled) {
  absl::MutexLock lock(&mutex_);
  const uint64_t before = beats_;
  heartbeat_wanted_.store(true, std::memory_order_relaxed);
  event_.Signal();
  const auto moved = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return beats_ != before; };
  return Await(moved, timeout, is_cancelled);
}

absl::Status ControlMailbox::Call(CommandType type, absl::Duration timeout,
                                  absl::FunctionRef<bool()> is_cancelled,
                                  v1::DeviceMetrics* metrics) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the device is ending");
  const auto command = std::make_shared<Command>(type);
  commands_.push_back(command);
  event_.Signal();
  absl::Status waited = Await([&command] { return command->finished; }, timeout, is_cancelled);
  if (!waited.ok()) {
    command->abandoned = true;
    commands_.erase(std::remove(commands_.begin(), commands_.end(), command), commands_.end());
    event_.Signal();  // the data plane may be executing it, and can undo it
    return waited;
  }
  if (metrics != nullptr) metrics->Swap(&command->metrics);
  return command->result;
}

absl::Status ControlMailbox::Await(absl::FunctionRef<bool()> done, absl::Duration timeout,
                                   absl::FunctionRef<bool()> is_cancelled) {
  const absl::Time latest = SteadyNow() + std::min(timeout, kMaxWait);
  while (!done()) {
    if (closed_) return absl::UnavailableError("the device is ending");
    const absl::Duration left = latest - SteadyNow();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError("the device did not answer in time");
    }
    if (changed_.WaitFor(&mutex_, std::min(left, kCancellationInterval))) continue;
    mutex_.Unlock();  // no call-out under a lock
    const bool cancelled = is_cancelled();
    mutex_.Lock();
    if (cancelled && !done()) return absl::CancelledError("the call was cancelled");
  }
  return absl::OkStatus();
}

void ControlMailbox::Beat() {
  absl::MutexLock lock(&mutex_);
  heartbeat_wanted_.store(false, std::memory_order_relaxed);
  ++beats_;
  changed_.SignalAll();
}

std::shared_ptr<ControlMailbox::Command> ControlMailbox::Take(bool metrics_only) {
  absl::MutexLock lock(&mutex_);
  const auto found = std::find_if(commands_.begin(), commands_.end(), [&](const auto& command) {
    return !metrics_only || command->type == CommandType::kGetMetrics;
  });
  if (found == commands_.end()) return nullptr;
  std::shared_ptr<Command> command = std::move(*found);
  commands_.erase(found);
  return command;
}

bool ControlMailbox::IsAbandoned(const Command& command) {
  absl::MutexLock lock(&mutex_);
  return command.abandoned;
}

bool ControlMailbox::Finish(Command& command, absl::Status result) {
  absl::MutexLock lock(&mutex_);
  command.result = std::move(result);
  command.finished = true;
  changed_.SignalAll();
  return !command.abandoned;
}

void ControlMailbox::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  commands_.clear();
  changed_.SignalAll();
}

}  // namespace bulkhead::devices
