#include "vmm/pci/fake_event_routing.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

bool TakeEvent(int event_fd) {
  uint64_t count = 0;
  return read(event_fd, &count, sizeof(count)) == sizeof(count);
}

}  // namespace

absl::StatusOr<uint32_t> FakeEventRouting::AllocateMsiGsi() {
  absl::MutexLock lock(&mutex_);
  if (next_gsi_ >= gsi_limit_) return absl::ResourceExhaustedError("all GSIs are in use");
  return next_gsi_++;
}

absl::Status FakeEventRouting::SetMsiRoute(uint32_t gsi, const MsiMessage& message) {
  absl::MutexLock lock(&mutex_);
  if (std::exchange(fail_route_, false)) return absl::InvalidArgumentError("route refused");
  if (gsi < layout::kMsiGsiBase || gsi >= next_gsi_) {
    violations_.push_back(absl::StrCat("route of GSI ", gsi, ", which is not allocated"));
  }
  ++routes_set_;
  routes_[gsi] = message;
  return absl::OkStatus();
}

absl::Status FakeEventRouting::BindIrq(uint32_t gsi, int event_fd, int resample_fd) {
  absl::MutexLock lock(&mutex_);
  if (std::exchange(fail_bind_, false)) return absl::ResourceExhaustedError("irqfd refused");
  if (gsi >= layout::kMsiGsiBase && routes_.count(gsi) == 0) {
    violations_.push_back(absl::StrCat("GSI ", gsi, " bound without a route"));
  }
  if (!irqs_.emplace(event_fd, Irq{gsi, resample_fd}).second) {
    violations_.push_back(absl::StrCat("eventfd ", event_fd, " bound twice"));
    return absl::AlreadyExistsError("irqfd is bound");
  }
  if (TakeEvent(event_fd)) Deliver(gsi);  // a count already pending raises it at once
  return absl::OkStatus();
}

absl::Status FakeEventRouting::UnbindIrq(uint32_t gsi, int event_fd) {
  absl::MutexLock lock(&mutex_);
  const auto irq = irqs_.find(event_fd);
  if (irq == irqs_.end() || irq->second.gsi != gsi) {
    violations_.push_back(absl::StrCat("eventfd ", event_fd, " unbound from GSI ", gsi));
    return absl::NotFoundError("irqfd is not bound");
  }
  if (TakeEvent(event_fd)) Deliver(gsi);  // it was signalled while still bound
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
    if (TakeEvent(event_fd)) Deliver(irq.gsi);
  }
  return std::exchange(deliveries_, {});
}

void FakeEventRouting::Deliver(uint32_t gsi) {
  const auto route = routes_.find(gsi);
  const MsiMessage message = route != routes_.end() ? route->second : MsiMessage{};
  deliveries_.push_back({.gsi = gsi, .address = message.address, .data = message.data});
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

int FakeEventRouting::routes_set() const {
  absl::MutexLock lock(&mutex_);
  return routes_set_;
}

int FakeEventRouting::doorbell_calls() const {
  absl::MutexLock lock(&mutex_);
  return doorbell_calls_;
}

std::vector<std::string> FakeEventRouting::violations() const {
  absl::MutexLock lock(&mutex_);
  return violations_;
}

void FakeEventRouting::set_gsi_limit(uint32_t limit) {
  absl::MutexLock lock(&mutex_);
  gsi_limit_ = limit;
}

void FakeEventRouting::FailNextBind() {
  absl::MutexLock lock(&mutex_);
  fail_bind_ = true;
}

void FakeEventRouting::FailNextRoute() {
  absl::MutexLock lock(&mutex_);
  fail_route_ = true;
}

void FakeEventRouting::FailNextDoorbell() {
  absl::MutexLock lock(&mutex_);
  fail_doorbell_ = true;
}

}  // namespace bulkhead::vmm
