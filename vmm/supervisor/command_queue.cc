#include "vmm/supervisor/command_queue.h"

namespace bulkhead::vmm {
namespace {

// Stop, restart and reboot interrupt a try to start a process. Such a try is what a reset or a
// start needs, so these do not.
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
      // Under the lock, so that the thread cannot finish the command before this demand comes: the
      // demand would then interrupt its next work.
      attention_->Demand(urgency);
      return;
    }
  }
  command.done(VmEndsError());
}

void CommandQueue::SubmitRefresh(std::function<void()> done) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended_) {
      refreshes_.push_back(std::move(done));
      // One more needs no demand, which would interrupt the fetch for the others.
      if (refreshes_.size() == 1) attention_->Demand(Attention::Urgency::kNews);
      return;
    }
  }
  done();
}

bool CommandQueue::wants_refresh() const {
  absl::MutexLock lock(&mutex_);
  return !refreshes_.empty();
}

std::vector<std::function<void()>> CommandQueue::TakeRefreshes() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(refreshes_, {});
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
