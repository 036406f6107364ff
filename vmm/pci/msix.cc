#include "vmm/pci/msix.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "base/access_mask.h"
#include "base/event_fd.h"
#include "base/status_macros.h"
#include "vmm/device/pci_registers.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kSmallestBar = 4096;

// Dwords of a table entry.
constexpr uint32_t kAddressLow = 0;
constexpr uint32_t kAddressHigh = 1;
constexpr uint32_t kData = 2;
constexpr uint32_t kVectorControl = 3;

}  // namespace

absl::StatusOr<std::unique_ptr<Msix>> Msix::Create(std::string name,
                                                   const std::vector<int>& event_fds,
                                                   EventRouting& routing) {
  // Too many vectors are an error at start, not a lost interrupt later.
  RETURN_IF_ERROR(routing.ReserveMsis(static_cast<uint32_t>(event_fds.size())));
  std::vector<Vector> vectors(event_fds.size());
  for (size_t i = 0; i < event_fds.size(); ++i) vectors[i].event_fd = event_fds[i];
  return std::unique_ptr<Msix>(new Msix(std::move(name), std::move(vectors), routing));
}

Msix::Msix(std::string name, std::vector<Vector> vectors, EventRouting& routing)
    : routing_(routing),
      table_bytes_(static_cast<uint32_t>(vectors.size()) * pci::kMsixEntryBytes),
      vectors_(std::move(vectors)),
      warn_(std::move(name)) {}

Msix::~Msix() {
  absl::MutexLock lock(&mutex_);
  for (Vector& vector : vectors_) Unbind(vector);
}

uint32_t Msix::PbaOffset(uint32_t vectors) { return vectors * pci::kMsixEntryBytes; }

uint32_t Msix::BarSize(uint32_t vectors) {
  const uint32_t pba_bytes = (vectors + 63) / 64 * 8;  // whole qwords ([PCI] 6.8.2.10)
  return std::bit_ceil(std::max(kSmallestBar, PbaOffset(vectors) + pba_bytes));
}

void Msix::SetControl(const Control& control) {
  const bool deliverable = control.enabled && !control.function_mask && control.bus_master;
  absl::MutexLock lock(&mutex_);
  if (deliverable == deliverable_) return;
  deliverable_ = deliverable;
  for (Vector& vector : vectors_) Update(vector);
}

void Msix::Reset() {
  absl::MutexLock lock(&mutex_);
  deliverable_ = false;
  for (Vector& vector : vectors_) {
    Unbind(vector);
    vector.message = {};
    vector.masked = true;
  }
}

void Msix::DiscardPending() {
  absl::MutexLock lock(&mutex_);
  for (const Vector& vector : vectors_) {
    if (!vector.gsi.has_value()) DrainEventFd(vector.event_fd);
  }
}

uint64_t Msix::Read(Waiter, uint64_t offset, uint8_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  // Up to three dwords, for a misaligned qword.
  uint64_t value = 0;
  for (uint64_t dword = offset & ~uint64_t{3}; dword < offset + size_bytes; dword += 4) {
    const uint64_t bits = ReadDword(dword);
    value |= dword >= offset ? bits << (8 * (dword - offset)) : bits >> (8 * (offset - dword));
  }
  return value & AccessMask(size_bytes);
}

uint32_t Msix::ReadDword(uint64_t offset) const {
  if (offset >= table_bytes_) {
    const uint64_t first = (offset - table_bytes_) * 8;
    return first < vectors_.size() ? ReadPending(static_cast<uint32_t>(first)) : 0;
  }
  const Vector& vector = vectors_[offset / pci::kMsixEntryBytes];
  switch (offset % pci::kMsixEntryBytes / 4) {
    case kAddressLow:
      return static_cast<uint32_t>(vector.message.address);
    case kAddressHigh:
      return static_cast<uint32_t>(vector.message.address >> 32);
    case kData:
      return vector.message.data;
    default:
      return vector.masked ? pci::kMsixVectorMasked : 0;
  }
}

// The pending bits of 32 vectors from `first`. A bound vector has none: the kernel delivers its
// events at once.
uint32_t Msix::ReadPending(uint32_t first) const {
  const uint32_t count = std::min<uint32_t>(32, static_cast<uint32_t>(vectors_.size()) - first);
  std::array<pollfd, 32> polls;
  for (uint32_t i = 0; i < count; ++i) {
    const Vector& vector = vectors_[first + i];
    // poll(2) ignores negative descriptors.
    polls[i] = {
        .fd = vector.gsi.has_value() ? -1 : vector.event_fd, .events = POLLIN, .revents = 0};
  }
  // Does not wait. Fails only if no event is pending (EINTR), with `revents` all 0.
  (void)poll(polls.data(), count, 0);
  uint32_t pending = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if ((polls[i].revents & POLLIN) != 0) pending |= 1u << i;
  }
  return pending;
}

void Msix::Write(Waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if ((size_bytes != 4 && size_bytes != 8) || offset % size_bytes != 0) return;
  if (offset >= table_bytes_) return;  // the PBA is read-only
  absl::MutexLock lock(&mutex_);
  // An aligned qword lies within one entry.
  Vector& vector = vectors_[offset / pci::kMsixEntryBytes];
  const MsiMessage before = vector.message;
  const uint32_t field = offset % pci::kMsixEntryBytes / 4;
  WriteDword(vector, field, static_cast<uint32_t>(value));
  if (size_bytes == 8) WriteDword(vector, field + 1, static_cast<uint32_t>(value >> 32));
  if (vector.message != before) Unbind(vector);
  Update(vector);
}

void Msix::WriteDword(Vector& vector, uint32_t field, uint32_t value) {
  MsiMessage& message = vector.message;
  switch (field) {
    case kAddressLow:  // bits 1:0 are 0 ([PCI] 6.8.2.7)
      message.address = (message.address & ~uint64_t{0xffffffff}) | (value & ~uint32_t{3});
      break;
    case kAddressHigh:
      message.address = (message.address & 0xffffffff) | static_cast<uint64_t>(value) << 32;
      break;
    case kData:
      message.data = value;
      break;
    case kVectorControl:
      vector.masked = (value & pci::kMsixVectorMasked) != 0;
      break;
  }
}

void Msix::Update(Vector& vector) {
  if (!deliverable_ || vector.masked) {
    Unbind(vector);
    return;
  }
  if (vector.gsi.has_value()) return;
  const absl::StatusOr<uint32_t> gsi = routing_.BindMsi(vector.message, vector.event_fd);
  warn_.Check(
      gsi.status());  // if KVM cannot send the message, it is as a write to an unused address
  if (gsi.ok()) vector.gsi = *gsi;
}

void Msix::Unbind(Vector& vector) {
  if (!vector.gsi.has_value()) return;
  warn_.Check(routing_.UnbindIrq(*vector.gsi, vector.event_fd));
  vector.gsi.reset();
}

}  // namespace bulkhead::vmm
