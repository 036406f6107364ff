#include "devices/virtio/virtqueue.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "devices/virtio/virtqueue_step.h"

namespace bulkhead::devices::virtio {
namespace {

std::atomic_ref<uint16_t> Atomic16(uint8_t* p) {
  static_assert(std::atomic_ref<uint16_t>::is_always_lock_free);
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(p));
}
std::atomic_ref<uint32_t> Atomic32(uint8_t* p) {
  static_assert(std::atomic_ref<uint32_t>::is_always_lock_free);
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(p));
}

// A snapshot of a descriptor. The empty asm makes the compiler believe that memory changes
// afterwards: it cannot read a field again after it was checked. (Entries of an indirect table
// may be misaligned, so these are no atomics.)
Descriptor Snapshot(const uint8_t* entry) {
  Descriptor descriptor;
  memcpy(&descriptor, entry, sizeof(descriptor));
  asm volatile("" : "+m"(descriptor) : : "memory");
  return descriptor;
}

absl::Span<uint8_t> Bytes(std::vector<uint64_t>& words) {
  return absl::MakeSpan(reinterpret_cast<uint8_t*>(words.data()), words.size() * sizeof(words[0]));
}

absl::Status Misplaced(absl::string_view ring, GuestAddress address) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s at 0x%x is misaligned or outside memory", ring, address));
}

}  // namespace

Virtqueue::Virtqueue(uint16_t max_size, absl::AnyInvocable<void(absl::string_view)> on_violation,
                     absl::Span<uint8_t> durable_memory)
    : max_size_(max_size),
      on_violation_(std::move(on_violation)),
      own_memory_(durable_memory.empty() ? InFlightLog::SizeBytes(max_size) / sizeof(uint64_t) : 0),
      log_(durable_memory.empty() ? Bytes(own_memory_) : durable_memory, max_size),
      chains_(max_size) {
  to_resubmit_.reserve(max_size);
}

absl::Status Virtqueue::Enable(const GuestMemory& memory, const QueueSetup& setup, bool event_index,
                               bool indirect_descriptors, uint32_t epoch) {
  RETURN_IF_ERROR(SetUp(memory, setup, event_index, indirect_descriptors, epoch));
  log_.Begin(epoch, size_);
  return absl::OkStatus();
}

absl::Status Virtqueue::Resume(const GuestMemory& memory, const QueueSetup& setup, bool event_index,
                               bool indirect_descriptors, uint32_t epoch) {
  RETURN_IF_ERROR(SetUp(memory, setup, event_index, indirect_descriptors, epoch));
  recovery_due_ = true;
  return absl::OkStatus();
}

absl::Status Virtqueue::SetUp(const GuestMemory& memory, const QueueSetup& setup, bool event_index,
                              bool indirect_descriptors, uint32_t epoch) {
  if (!std::has_single_bit(setup.size) || setup.size > max_size_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("queue size %d is not a power of two up to %d", setup.size, max_size_));
  }
  // The event words at the ends exist only with the feature. Section 2.7.
  const uint64_t event_bytes = event_index ? 2 : 0;
  uint8_t* descriptors =
      memory.HostPointer(setup.descriptor_table, uint64_t{setup.size} * sizeof(Descriptor));
  uint8_t* available = memory.HostPointer(setup.driver_area,
                                          kAvailableRing + uint64_t{setup.size} * 2 + event_bytes);
  uint8_t* used = memory.HostPointer(
      setup.device_area, kUsedRing + uint64_t{setup.size} * kUsedElementSize + event_bytes);
  // Checked on the host's addresses: the atomics below depend on these.
  const auto aligned = [](const uint8_t* p, uintptr_t alignment) {
    return p != nullptr && reinterpret_cast<uintptr_t>(p) % alignment == 0;
  };
  if (!aligned(descriptors, 16)) return Misplaced("descriptor table", setup.descriptor_table);
  if (!aligned(available, 2)) return Misplaced("available ring", setup.driver_area);
  if (!aligned(used, 4)) return Misplaced("used ring", setup.device_area);

  Disable();
  state_ = State::kEnabled;
  event_index_ = event_index;
  indirect_descriptors_ = indirect_descriptors;
  memory_ = &memory;
  descriptors_ = descriptors;
  available_ = available;
  used_ = used;
  size_ = setup.size;
  epoch_ = epoch;
  return absl::OkStatus();
}

void Virtqueue::SetServing(bool serving) {
  const bool possible = state_ == State::kEnabled && !broken_;
  if (serving && possible && std::exchange(recovery_due_, false)) Recover();
  serving_ = serving && possible && !broken_;
}

void Virtqueue::Recover() {
  // relaxed: no chain is looked at by what it says.
  const uint16_t used_idx = Atomic16(used_ + kUsedIdx).load(std::memory_order_relaxed);
  absl::StatusOr<std::vector<uint16_t>> in_flight = log_.Recover(epoch_, size_, used_idx);
  if (!in_flight.ok()) {
    Violation(in_flight.status().message());
    return;
  }
  next_used_ = published_used_ = used_idx;
  available_idx_ = next_available_ = static_cast<uint16_t>(used_idx + in_flight->size());
  to_resubmit_.assign(in_flight->rbegin(), in_flight->rend());
}

void Virtqueue::Stop() {
  serving_ = false;
  if (state_ == State::kEnabled) state_ = State::kStopping;
}

void Virtqueue::Disable() {
  if (in_flight_count_ != 0) abort();  // the caller's error: DMA would outlive the queue
  state_ = State::kDisabled;
  serving_ = broken_ = recovery_due_ = false;
  std::fill(chains_.begin(), chains_.end(), Chain::kDrivers);
  to_resubmit_.clear();
  descriptors_ = nullptr;
  available_ = used_ = nullptr;
  available_idx_ = next_available_ = next_used_ = published_used_ = 0;
}

bool Virtqueue::Violation(absl::string_view what) {
  serving_ = false;
  broken_ = true;
  on_violation_(what);
  return false;
}

// Reads the driver's index. True if there is something to pop.
bool Virtqueue::RefreshAvailable() {
  // seq_cst contains acquire, which pairs with the driver's release of idx after it has filled
  // the ring entry and the descriptors; else those could be read as they were before. What
  // seq_cst is for: see RearmDoorbell(). On x86 the load is a plain one.
  available_idx_ = Atomic16(available_ + kAvailableIdx).load(std::memory_order_seq_cst);
  const uint16_t pending = available_idx_ - next_available_;
  if (pending > size_) {
    return Violation(absl::StrFormat("available index %d is %d ahead, in a queue of %d",
                                     available_idx_, pending, size_));
  }
  return pending != 0;
}

bool Virtqueue::HasAvailable() const {
  if (!serving_) return false;
  if (!to_resubmit_.empty() || next_available_ != available_idx_) return true;
  // acquire: who is told of a chain then sees what the driver has sent before it made it available.
  return Atomic16(available_ + kAvailableIdx).load(std::memory_order_acquire) != next_available_;
}

bool Virtqueue::Pop(absl::Span<iovec> storage, DescriptorChain& chain) {
  if (!serving_) return false;
  if (!to_resubmit_.empty()) return PopAgain(storage, chain);
  if (next_available_ == available_idx_ && !RefreshAvailable()) return false;
  // relaxed: ordered by the acquire in RefreshAvailable().
  const uint16_t head = Atomic16(available_ + kAvailableRing + 2 * (next_available_ & (size_ - 1)))
                            .load(std::memory_order_relaxed);
  if (head >= size_) {
    return Violation(absl::StrFormat("descriptor %d in a queue of %d", head, size_));
  }
  if (chains_[head] != Chain::kDrivers) {
    return Violation(absl::StrFormat("descriptor %d is available while in flight", head));
  }
  if (!Walk(head, storage, chain)) return false;
  chain.head = head;
  log_.Popped(head);
  chains_[head] = Chain::kPopped;
  ++in_flight_count_;
  ++next_available_;
  return true;
}

// As Pop(), but the log has it already.
bool Virtqueue::PopAgain(absl::Span<iovec> storage, DescriptorChain& chain) {
  const uint16_t head = to_resubmit_.back();
  if (!Walk(head, storage, chain)) return false;
  to_resubmit_.pop_back();
  chain.head = head;
  chains_[head] = Chain::kPopped;
  ++in_flight_count_;
  ++resubmitted_;
  return true;
}

Descriptor Virtqueue::EntryAcrossRanges(const Table& table, uint32_t index) const {
  Descriptor descriptor = {};
  memory_->ReadObject(table.address + uint64_t{index} * sizeof(Descriptor), descriptor);
  return Snapshot(reinterpret_cast<const uint8_t*>(&descriptor));
}

bool Virtqueue::Walk(uint16_t head, absl::Span<iovec> storage, DescriptorChain& chain) {
  Table table{descriptors_, 0, size_};
  bool in_indirect = false;
  uint32_t index = head;
  size_t readable = 0;
  size_t buffers = 0;
  // A legal chain has no more entries than the queue (2.7.5.3.1), so this ends loops, too. One step
  // more: the descriptor of an indirect table is none of them.
  for (size_t step = 0; step <= max_size_; ++step) {
    const Descriptor descriptor = table.entries != nullptr
                                      ? Snapshot(table.entries + index * sizeof(Descriptor))
                                      : EntryAcrossRanges(table, index);
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      if (!indirect_descriptors_) return Violation("indirect descriptor was not negotiated");
      if (in_indirect) return Violation("indirect descriptor in an indirect table");
      if ((descriptor.flags & kDescriptorNext) != 0) {
        return Violation("indirect descriptor with a next one");
      }
      if (descriptor.length == 0 || descriptor.length % sizeof(Descriptor) != 0) {
        return Violation(absl::StrFormat("indirect table of %d bytes", descriptor.length));
      }
      const uint8_t* entries = memory_->HostPointer(descriptor.address, descriptor.length);
      if (entries == nullptr && !memory_->Contains(descriptor.address, descriptor.length)) {
        return Violation(absl::StrFormat("indirect table of %d bytes at 0x%x is outside memory",
                                         descriptor.length, descriptor.address));
      }
      table = {entries, descriptor.address,
               static_cast<uint32_t>(descriptor.length / sizeof(Descriptor))};
      in_indirect = true;
      index = 0;
      continue;
    }
    const bool writable = (descriptor.flags & kDescriptorWrite) != 0;
    if (!writable && buffers != readable) {
      return Violation("a readable descriptor follows a writable one");
    }
    if (descriptor.length != 0) {  // an empty one is odd, but not forbidden
      bool fits = true;
      const auto add = [&](uint8_t* data, uint64_t size_bytes) {
        fits = fits && buffers < storage.size();
        if (fits) storage[buffers++] = {data, size_bytes};
      };
      if (!memory_->ForEachPart(descriptor.address, descriptor.length, add)) {
        return Violation(absl::StrFormat("buffer of %d bytes at 0x%x is outside memory",
                                         descriptor.length, descriptor.address));
      }
      if (!fits) return Violation(absl::StrFormat("chain of more than %d buffers", storage.size()));
      if (!writable) readable = buffers;
    }
    if ((descriptor.flags & kDescriptorNext) == 0) {
      chain.readable = storage.first(readable);
      chain.writable = storage.subspan(readable, buffers - readable);
      return true;
    }
    index = descriptor.next;
    if (index >= table.count) {
      return Violation(
          absl::StrFormat("descriptor %d in a table of %d", descriptor.next, table.count));
    }
  }
  return Violation(absl::StrFormat("chain of more than %d descriptors", max_size_));
}

void Virtqueue::Complete(uint16_t head, uint32_t written_bytes) {
  if (chains_[head] != Chain::kPopped) abort();  // the device's error
  chains_[head] = Chain::kCompleted;
  --in_flight_count_;
  if (state_ != State::kEnabled) return;
  log_.Completed(next_used_, head);
  uint8_t* element = used_ + kUsedRing + kUsedElementSize * (next_used_ & (size_ - 1));
  // relaxed: Publish() orders them before the driver's look.
  Atomic32(element).store(head, std::memory_order_relaxed);
  VIRTQUEUE_STEP("half_of_used_element");
  Atomic32(element + 4).store(written_bytes, std::memory_order_relaxed);
  VIRTQUEUE_STEP("used_element");
  ++next_used_;
}

bool Virtqueue::Publish() {
  if (state_ != State::kEnabled || next_used_ == published_used_) return false;
  const uint16_t old_idx = std::exchange(published_used_, next_used_);
  // seq_cst contains release, which pairs with the driver's acquire of used.idx; else it could
  // see the index before the elements, or before the data in its buffers.
  // seq_cst, here and of the load below, is a full fence between the two (x86: the store is an
  // xchg). Its partner stands in the driver between its store of used_event (or flags) and its
  // last load of used.idx. Without both, each side could miss the other's store: the driver
  // waits for an interrupt that this side believes is not wanted.
  VIRTQUEUE_STEP("before_used_idx");
  Atomic16(used_ + kUsedIdx).store(next_used_, std::memory_order_seq_cst);
  VIRTQUEUE_STEP("between_used_idx_and_inflight");
  log_.Published(old_idx, next_used_, [this](uint16_t head) { chains_[head] = Chain::kDrivers; });
  if (event_index_) {
    const uint16_t used_event =
        Atomic16(available_ + kAvailableRing + 2 * size_).load(std::memory_order_seq_cst);
    return PassesEvent(used_event, next_used_, old_idx);
  }
  return (Atomic16(available_).load(std::memory_order_seq_cst) & kAvailableNoInterrupt) == 0;
}

void Virtqueue::SuppressDoorbells() {
  // With the event index there is nothing to do: avail_event still names an index that was
  // passed, so the driver stays quiet until RearmDoorbell() moves it.
  if (!serving_ || event_index_) return;
  // relaxed: a hint.
  Atomic16(used_).store(kUsedNoNotify, std::memory_order_relaxed);
  VIRTQUEUE_STEP("doorbells_suppressed");
}

bool Virtqueue::RearmDoorbell() {
  if (!serving_) return false;
  // seq_cst, here and of the load in RefreshAvailable(), is a full fence between the two (x86:
  // the store is an xchg). Its partner stands in the driver between its store of avail.idx and
  // its load of avail_event (or flags). Without both, the driver could see the old wish and not
  // ring while this side sees the old index and goes to sleep: the chain would wait for the next
  // one's doorbell.
  if (event_index_) {
    Atomic16(used_ + kUsedRing + kUsedElementSize * size_)
        .store(next_available_, std::memory_order_seq_cst);
  } else {
    Atomic16(used_).store(0, std::memory_order_seq_cst);
  }
  VIRTQUEUE_STEP("doorbell_armed");
  return RefreshAvailable();
}

}  // namespace bulkhead::devices::virtio
