#include "vmm/supervisor/command_queue.h"

namespace bulkhead::vmm {
namespace {

// Stop, restart and reboot interrupt a try to start a process. A reset or a start is served by it.
Attention::Urgency UrgencyOf(SupervisionEvent command) {
  const bool served = command == SupervisionEvent::kReset || command == SupervisionEvent::kStart;
  return served ? Attention::Urgency::kNews : Attention::Urgency::kCommand;
}

}  // namespace

void CommandQueue::Submit(SupervisorCommand command) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended_) {
      const Attention::Urgency urgency = UrgencyOf(command.event);
      commands_.push_back(std::move(command));
      // Still under the lock: a demand that came after its command was carried out would interrupt
      // what the thread does next.
      attention_->Demand(urgency);
      return;
    }
  }
  command.done(VmEndsError());
}

void CommandQueue::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  attention_->Demand(Attention::Urgency::kEnd);
}

void CommandQueue::AwaitEnd() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&ended_));
}

bool CommandQueue::ending() const {
  absl::MutexLock lock(&mutex_);
  return ending_;
}

std::optional<SupervisorCommand> CommandQueue::Take() {
  absl::MutexLock lock(&mutex_);
  return TakeLocked();
}

std::optional<SupervisorCommand> CommandQueue::TakeOrEnd() {
  absl::MutexLock lock(&mutex_);
  ended_ = commands_.empty();
  return TakeLocked();
}

std::optional<SupervisorCommand> CommandQueue::TakeLocked() {
  if (commands_.empty()) return std::nullopt;
  SupervisorCommand command = std::move(commands_.front());
  commands_.pop_front();
  return command;
}

}  // namespace bulkhead::vmm
