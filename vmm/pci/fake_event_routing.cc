#include "vmm/pci/fake_event_routing.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

bool TakeEvent(int event_fd) {
  uint64_t count = 0;
  return read(event_fd, &count, sizeof(count)) == sizeof(count);
}

}  // namespace

absl::Status FakeEventRouting::ReserveMsis(uint32_t count) {
  absl::MutexLock lock(&mutex_);
  if (count > msi_limit_ - reserved_msis_) {
    return absl::ResourceExhaustedError("all routes are reserved");
  }
  reserved_msis_ += count;
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> FakeEventRouting::BindMsi(const MsiMessage& message, int event_fd) {
  absl::MutexLock lock(&mutex_);
  const uint32_t gsi = next_gsi_++;
  RETURN_IF_ERROR(
      Bind(event_fd, {gsi, {.gsi = 0, .address = message.address, .data = message.data}}));
  if (++bound_msis_ > reserved_msis_) violations_.push_back("more messages than were reserved");
  return gsi;
}

absl::Status FakeEventRouting::BindIrq(uint32_t gsi, int event_fd, int) {
  absl::MutexLock lock(&mutex_);
  return Bind(event_fd, {gsi, {.gsi = gsi}});
}

absl::Status FakeEventRouting::Bind(int event_fd, const Irq& irq) {
  ++irq_calls_;
  if (std::exchange(fail_bind_, false)) return absl::ResourceExhaustedError("irqfd refused");
  if (!irqs_.emplace(event_fd, irq).second) {
    violations_.push_back(absl::StrCat("eventfd ", event_fd, " bound twice"));
    return absl::AlreadyExistsError("irqfd is bound");
  }
  // A count already pending raises it at once.
  if (TakeEvent(event_fd)) deliveries_.push_back(irq.delivery);
  return absl::OkStatus();
}

absl::Status FakeEventRouting::UnbindIrq(uint32_t gsi, int event_fd) {
  absl::MutexLock lock(&mutex_);
  ++irq_calls_;
  const auto irq = irqs_.find(event_fd);
  if (irq == irqs_.end() || irq->second.gsi != gsi) {
    violations_.push_back(absl::StrCat("eventfd ", event_fd, " unbound from GSI ", gsi));
    return absl::NotFoundError("irqfd is not bound");
  }
  if (TakeEvent(event_fd)) deliveries_.push_back(irq->second.delivery);  // signalled while bound
  if (gsi >= layout::kMsiGsiBase) --bound_msis_;
  irqs_.erase(irq);
  return absl::OkStatus();
}

absl::Status FakeEventRouting::BindDoorbell(Space, uint64_t address, uint32_t size_bytes,
                                            int event_fd) {
  absl::MutexLock lock(&mutex_);
  ++doorbell_calls_;
  if (std::exchange(fail_doorbell_, false))
    return absl::ResourceExhaustedError("ioeventfd refused");
  for (const Doorbell& other : doorbells_) {
    if (other.address == address) {
      violations_.push_back(absl::StrCat("two doorbells at ", address));
      return absl::AlreadyExistsError("doorbell is bound");
    }
  }
  doorbells_.insert({address, size_bytes, event_fd});
  return absl::OkStatus();
}

absl::Status FakeEventRouting::UnbindDoorbell(Space, uint64_t address, uint32_t size_bytes,
                                              int event_fd) {
  absl::MutexLock lock(&mutex_);
  ++doorbell_calls_;
  if (doorbells_.erase({address, size_bytes, event_fd}) == 0) {
    violations_.push_back(absl::StrCat("doorbell at ", address, " unbound, but not bound"));
    return absl::NotFoundError("doorbell is not bound");
  }
  return absl::OkStatus();
}

std::vector<FakeEventRouting::Delivery> FakeEventRouting::TakeDeliveries() {
  absl::MutexLock lock(&mutex_);
  for (const auto& [event_fd, irq] : irqs_) {
    if (TakeEvent(event_fd)) deliveries_.push_back(irq.delivery);
  }
  return std::exchange(deliveries_, {});
}

bool FakeEventRouting::IsBound(int event_fd) const {
  absl::MutexLock lock(&mutex_);
  return irqs_.count(event_fd) != 0;
}

size_t FakeEventRouting::bound_irqs() const {
  absl::MutexLock lock(&mutex_);
  return irqs_.size();
}

std::vector<FakeEventRouting::Doorbell> FakeEventRouting::doorbells() const {
  absl::MutexLock lock(&mutex_);
  return std::vector<Doorbell>(doorbells_.begin(), doorbells_.end());
}

int FakeEventRouting::irq_calls() const {
  absl::MutexLock lock(&mutex_);
  return irq_calls_;
}

int FakeEventRouting::doorbell_calls() const {
  absl::MutexLock lock(&mutex_);
  return doorbell_calls_;
}

std::vector<std::string> FakeEventRouting::violations() const {
  absl::MutexLock lock(&mutex_);
  return violations_;
}

void FakeEventRouting::set_msi_limit(uint32_t limit) {
  absl::MutexLock lock(&mutex_);
  msi_limit_ = limit;
}

void FakeEventRouting::FailNextBind() {
  absl::MutexLock lock(&mutex_);
  fail_bind_ = true;
}

void FakeEventRouting::FailNextDoorbell() {
  absl::MutexLock lock(&mutex_);
  fail_doorbell_ = true;
}

}  // namespace bulkhead::vmm
