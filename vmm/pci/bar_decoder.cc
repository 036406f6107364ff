#include "vmm/pci/bar_decoder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace bulkhead::vmm {

BarDecoder::BarDecoder(AddressSpace& memory, EventRouting& routing, const MmioWindows& windows)
    : memory_(memory), routing_(routing), windows_(windows) {}

BarDecoder::~BarDecoder() {
  absl::MutexLock lock(&mutex_);
  for (Entry& entry : entries_) {
    if (entry.decoded) Unmap(entry);
  }
}

BarDecoder::BarId BarDecoder::Add(Bar bar) {
  absl::MutexLock lock(&mutex_);
  Entry entry;
  entry.bound.resize(bar.doorbells.size());
  entry.bar = std::move(bar);
  entries_.push_back(std::move(entry));
  return entries_.size() - 1;
}

void BarDecoder::Decode(BarId id, std::optional<GuestAddress> address) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_[id];
  if (entry.requested == address) return;
  const bool frees_a_range = entry.decoded;
  if (entry.decoded) Unmap(entry);
  entry.requested = address;
  Map(entry);
  if (!frees_a_range) return;
  for (Entry& waiting : entries_) {
    if (!waiting.decoded) Map(waiting);
  }
}

bool BarDecoder::IsDecoded(BarId id) const {
  absl::MutexLock lock(&mutex_);
  return entries_[id].decoded;
}

bool BarDecoder::IsFree(GuestAddress start, uint64_t size_bytes) const {
  for (const Entry& other : entries_) {
    if (!other.decoded) continue;
    // Neither sum wraps: both ranges lie in a window.
    if (start < *other.requested + other.bar.size_bytes && *other.requested < start + size_bytes) {
      return false;
    }
  }
  return true;
}

void BarDecoder::Map(Entry& entry) {
  if (!entry.requested.has_value()) return;
  const GuestAddress start = *entry.requested;
  if (!windows_.Holds(start, entry.bar.size_bytes) || !IsFree(start, entry.bar.size_bytes)) return;

  const absl::Status inserted = memory_.Insert(start, entry.bar.size_bytes, entry.bar.handler);
  Check(entry, inserted);
  if (!inserted.ok()) return;
  entry.decoded = true;
  // A doorbell that the kernel refuses still works: writes reach the device as accesses.
  for (size_t i = 0; i < entry.bar.doorbells.size(); ++i) {
    const Doorbell& doorbell = entry.bar.doorbells[i];
    const absl::Status bound =
        routing_.BindDoorbell(EventRouting::Space::kMemory, start + doorbell.offset,
                              doorbell.size_bytes, doorbell.event_fd);
    entry.bound[i] = bound.ok();
    Check(entry, bound);
  }
}

void BarDecoder::Unmap(Entry& entry) {
  const GuestAddress start = *entry.requested;
  for (size_t i = 0; i < entry.bar.doorbells.size(); ++i) {
    if (!entry.bound[i]) continue;
    const Doorbell& doorbell = entry.bar.doorbells[i];
    Check(entry, routing_.UnbindDoorbell(EventRouting::Space::kMemory, start + doorbell.offset,
                                         doorbell.size_bytes, doorbell.event_fd));
    entry.bound[i] = false;
  }
  Check(entry, memory_.Remove(start));
  entry.decoded = false;
}

void BarDecoder::Check(Entry& entry, const absl::Status& status) {
  if (status.ok() || entry.warned) return;
  entry.warned = true;  // the guest can cause any number of failures
  LogWarning(absl::StrCat(entry.bar.name, ": ", status.message(),
                          " (further failures of this BAR are not logged)"));
}

}  // namespace bulkhead::vmm
