#include "vmm/supervisor/attention.h"

#include <poll.h>

#include <algorithm>

#include "base/status_macros.h"

namespace bulkhead::vmm {

absl::StatusOr<std::shared_ptr<Attention>> Attention::Create() {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  return std::shared_ptr<Attention>(new Attention(std::move(event)));
}

void Attention::Demand(Urgency urgency) {
  absl::MutexLock lock(&mutex_);
  demanded_ = std::max(demanded_, urgency);
  event_.Signal();
  InterruptIfUrgent();
}

void Attention::InterruptIfUrgent() {
  if (wait_ == nullptr || wait_->interrupted_ || demanded_ < wait_->least_) return;
  wait_->interrupted_ = true;
  wait_->interrupt_();
}

void Attention::Take() {
  absl::MutexLock lock(&mutex_);
  event_.Drain();
  demanded_ = Urgency::kNone;
}

void Attention::Wait(absl::Duration limit) const {
  // A relative limit goes by the steady clock. A signal ends the wait early, which is harmless.
  const timespec timeout = absl::ToTimespec(std::max(limit, absl::ZeroDuration()));
  pollfd p = {.fd = event_.fd(), .events = POLLIN, .revents = 0};
  ppoll(&p, 1, limit == absl::InfiniteDuration() ? nullptr : &timeout, nullptr);
}

Attention::Interruptible::Interruptible(Attention& attention, Urgency least,
                                        std::function<void()> interrupt)
    : attention_(attention), least_(least), interrupt_(std::move(interrupt)) {
  absl::MutexLock lock(&attention_.mutex_);
  attention_.wait_ = this;
  attention_.InterruptIfUrgent();
}

Attention::Interruptible::~Interruptible() {
  absl::MutexLock lock(&attention_.mutex_);
  attention_.wait_ = nullptr;
}

bool Attention::Interruptible::interrupted() const {
  absl::MutexLock lock(&attention_.mutex_);
  return interrupted_;
}

}  // namespace bulkhead::vmm
