#include "vmm/machine/work_queue.h"

#include "absl/memory/memory.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<WorkQueue>> WorkQueue::Create() {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return absl::WrapUnique(new WorkQueue(std::move(event)));
}

bool WorkQueue::Add(std::function<void()> work) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return false;
    work_.push_back(std::move(work));
  }
  event_.Signal();
  return true;
}

void WorkQueue::Run() {
  event_.Drain();  // before the check: a later Add() signals again
  while (true) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&mutex_);
      if (work_.empty()) return;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
}

void WorkQueue::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

}  // namespace bulkhead::vmm
