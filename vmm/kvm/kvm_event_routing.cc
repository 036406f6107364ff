#include "vmm/kvm/kvm_event_routing.h"

#include <errno.h>
#include <sys/ioctl.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/status_macros.h"
#include "vmm/kvm/flexible_list.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

absl::Status Bind(int vm_fd, uint32_t gsi, int event_fd, int resample_fd) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(event_fd);
  request.gsi = gsi;
  if (resample_fd >= 0) {
    request.flags = KVM_IRQFD_FLAG_RESAMPLE;
    request.resamplefd = static_cast<uint32_t>(resample_fd);
  }
  if (ioctl(vm_fd, KVM_IRQFD, &request) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("KVM_IRQFD, binding GSI ", gsi));
  }
  // KVM has raised the interrupt for a count that was already pending, but it consumes only later
  // counts. If the pending count stayed, the next binding would raise a second interrupt.
  // Every count that is drained here was delivered: it came before the binding, or KVM saw it come.
  DrainEventFd(event_fd);
  return absl::OkStatus();
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
    : vm_fd_(vm_fd), msis_(max_gsi_routes) {}

absl::Status KvmEventRouting::ReserveMsis(uint32_t count) {
  absl::MutexLock lock(&mutex_);
  return msis_.Reserve(count);
}

absl::StatusOr<uint32_t> KvmEventRouting::BindMsi(const MsiMessage& message, int event_fd) {
  absl::MutexLock lock(&mutex_);
  std::optional<uint32_t> gsi = msis_.FindGsi(message);
  if (!gsi.has_value()) {
    // The guest chose the message. If KVM refuses it, it must not stay in the table: each later
    // SetTable() would fail.
    MsiRoutes msis = msis_;
    ASSIGN_OR_RETURN(gsi, msis.Add(message));
    RETURN_IF_ERROR(SetTable(std::move(msis)));
  }
  RETURN_IF_ERROR(Bind(vm_fd_, *gsi, event_fd, /*resample_fd=*/-1));
  msis_.AddUser(*gsi);
  return *gsi;
}

absl::Status KvmEventRouting::SetTable(MsiRoutes msis) {
  FlexibleList<kvm_irq_routing, kvm_irq_routing_entry> list(layout::kMsiGsiBase +
                                                            msis.routes().size());
  kvm_irq_routing_entry* entry = list.entries();
  uint32_t gsi = 0;
  for (; gsi < layout::kMsiGsiBase; ++gsi, ++entry) {
    entry->gsi = gsi;
    entry->type = KVM_IRQ_ROUTING_IRQCHIP;
    entry->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    entry->u.irqchip.pin = gsi;
  }
  for (const MsiRoutes::Route& route : msis.routes()) {
    entry->gsi = gsi++;
    entry->type = KVM_IRQ_ROUTING_MSI;
    entry->u.msi.address_lo = static_cast<uint32_t>(route.message.address);
    entry->u.msi.address_hi = static_cast<uint32_t>(route.message.address >> 32);
    entry->u.msi.data = route.message.data;
    ++entry;
  }
  list.header()->nr = gsi;
  if (ioctl(vm_fd_, KVM_SET_GSI_ROUTING, list.header()) != 0) {
    return ErrnoToStatus(errno, "KVM_SET_GSI_ROUTING");
  }
  msis_ = std::move(msis);
  set_ = true;
  return absl::OkStatus();
}

absl::Status KvmEventRouting::BindIrq(uint32_t gsi, int event_fd, int resample_fd) {
  absl::MutexLock lock(&mutex_);
  if (!set_) RETURN_IF_ERROR(SetTable(msis_));
  return Bind(vm_fd_, gsi, event_fd, resample_fd);
}

absl::Status KvmEventRouting::UnbindIrq(uint32_t gsi, int event_fd) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(event_fd);
  request.gsi = gsi;
  request.flags = KVM_IRQFD_FLAG_DEASSIGN;
  if (ioctl(vm_fd_, KVM_IRQFD, &request) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("KVM_IRQFD, unbinding GSI ", gsi));
  }
  if (gsi >= layout::kMsiGsiBase) {
    absl::MutexLock lock(&mutex_);
    msis_.RemoveUser(gsi);
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
