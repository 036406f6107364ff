#include "vmm/kvm/kvm_event_routing.h"

#include <errno.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/status_macros.h"
#include "vmm/kvm/flexible_list.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

kvm_irq_routing_entry MsiEntry(uint32_t gsi, const MsiMessage& message) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<uint32_t>(message.address);
  entry.u.msi.address_hi = static_cast<uint32_t>(message.address >> 32);
  entry.u.msi.data = message.data;
  return entry;
}

absl::Status IoEventFd(int vm_fd, EventRouting::Space space, uint64_t address, uint32_t size_bytes,
                       int event_fd, uint32_t flags) {
  kvm_ioeventfd request{};
  request.addr = address;
  request.len = size_bytes;
  request.fd = event_fd;
  request.flags = flags;
  if (space == EventRouting::Space::kPort) request.flags |= KVM_IOEVENTFD_FLAG_PIO;
  if (ioctl(vm_fd, KVM_IOEVENTFD, &request) != 0) {
    return ErrnoToStatus(errno, absl::StrFormat("KVM_IOEVENTFD at 0x%x", address));
  }
  return absl::OkStatus();
}

}  // namespace

KvmEventRouting::KvmEventRouting(int vm_fd, uint32_t max_gsi_routes)
    : vm_fd_(vm_fd), max_gsi_routes_(max_gsi_routes), next_msi_gsi_(layout::kMsiGsiBase) {
  for (uint32_t pin = 0; pin < layout::kMsiGsiBase; ++pin) {
    kvm_irq_routing_entry entry{};
    entry.gsi = pin;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    entry.u.irqchip.pin = pin;
    table_.push_back(entry);
  }
}

absl::StatusOr<uint32_t> KvmEventRouting::AllocateMsiGsi() {
  absl::MutexLock lock(&mutex_);
  if (next_msi_gsi_ >= max_gsi_routes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", max_gsi_routes_, " interrupt routes of KVM are in use"));
  }
  return next_msi_gsi_++;
}

absl::Status KvmEventRouting::SetMsiRoute(uint32_t gsi, const MsiMessage& message) {
  const kvm_irq_routing_entry requested = MsiEntry(gsi, message);
  absl::MutexLock lock(&mutex_);
  if (gsi < layout::kMsiGsiBase || gsi >= next_msi_gsi_) {
    return absl::InvalidArgumentError(absl::StrCat("GSI ", gsi, " was not allocated for MSI"));
  }
  const auto entry = std::find_if(table_.begin(), table_.end(),
                                  [=](const kvm_irq_routing_entry& e) { return e.gsi == gsi; });
  if (entry == table_.end()) {
    table_.push_back(requested);
    const absl::Status pushed = PushTable();
    if (!pushed.ok()) table_.pop_back();
    return pushed;
  }
  const kvm_irq_routing_entry before = *entry;
  if (before.u.msi.address_lo == requested.u.msi.address_lo &&
      before.u.msi.address_hi == requested.u.msi.address_hi &&
      before.u.msi.data == requested.u.msi.data) {
    return absl::OkStatus();
  }
  *entry = requested;
  const absl::Status pushed = PushTable();
  // The guest chose the message. If KVM refuses it, it must not stay in the table: every later
  // PushTable() would fail.
  if (!pushed.ok()) *entry = before;
  return pushed;
}

absl::Status KvmEventRouting::PushTable() {
  FlexibleList<kvm_irq_routing, kvm_irq_routing_entry> list(table_);
  list.header()->nr = static_cast<uint32_t>(table_.size());
  if (ioctl(vm_fd_, KVM_SET_GSI_ROUTING, list.header()) != 0) {
    return ErrnoToStatus(errno, "KVM_SET_GSI_ROUTING");
  }
  pushed_ = true;
  return absl::OkStatus();
}

absl::Status KvmEventRouting::BindIrq(uint32_t gsi, int event_fd, int resample_fd) {
  absl::MutexLock lock(&mutex_);
  if (!pushed_) RETURN_IF_ERROR(PushTable());
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(event_fd);
  request.gsi = gsi;
  if (resample_fd >= 0) {
    request.flags = KVM_IRQFD_FLAG_RESAMPLE;
    request.resamplefd = static_cast<uint32_t>(resample_fd);
  }
  if (ioctl(vm_fd_, KVM_IRQFD, &request) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("KVM_IRQFD, binding GSI ", gsi));
  }
  // KVM has raised the interrupt for a count that was already pending, but it consumes only later
  // counts. If the pending count stayed, the next binding would raise a second interrupt.
  // Every count that is drained here was delivered: it came before the binding, or KVM saw it come.
  DrainEventFd(event_fd);
  return absl::OkStatus();
}

absl::Status KvmEventRouting::UnbindIrq(uint32_t gsi, int event_fd) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(event_fd);
  request.gsi = gsi;
  request.flags = KVM_IRQFD_FLAG_DEASSIGN;
  if (ioctl(vm_fd_, KVM_IRQFD, &request) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("KVM_IRQFD, unbinding GSI ", gsi));
  }
  return absl::OkStatus();
}

absl::Status KvmEventRouting::BindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                                           int event_fd) {
  return IoEventFd(vm_fd_, space, address, size_bytes, event_fd, 0);
}

absl::Status KvmEventRouting::UnbindDoorbell(Space space, uint64_t address, uint32_t size_bytes,
                                             int event_fd) {
  return IoEventFd(vm_fd_, space, address, size_bytes, event_fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

}  // namespace bulkhead::vmm
