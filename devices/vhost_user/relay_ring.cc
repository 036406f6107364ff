#include "devices/vhost_user/relay_ring.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "base/crash_point.h"

namespace bulkhead::devices::vhost_user {
namespace {

using virtio::Descriptor;

constexpr size_t kPage = 4096;
constexpr size_t RoundUp(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// In the memory of a ring, one after the other, each on a page of its own.
size_t AvailableOffset(uint16_t size) { return RoundUp(size * sizeof(Descriptor)); }
size_t UsedOffset(uint16_t size) {
  return AvailableOffset(size) + RoundUp(virtio::kAvailableRing + size_t{size} * 2 + 2);
}
size_t NotesOffset(uint16_t size) {
  return UsedOffset(size) +
         RoundUp(virtio::kUsedRing + size_t{size} * virtio::kUsedElementSize + 2);
}

size_t TablesOffset(uint16_t size) {
  return NotesOffset(size) + RoundUp((size_t{size} + 1) * sizeof(uint64_t));
}

// A note: one store.
constexpr uint64_t kIsNote = uint64_t{1} << 63;
constexpr uint64_t MakeNote(uint16_t used, uint32_t written) {
  return kIsNote | uint64_t{used} << 32 | written;
}

// The reader starts after this process has ended: only the compiler must keep the order.
void StoreInOrder(uint64_t& place, uint64_t value) {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  std::atomic_ref<uint64_t>(place).store(value, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

std::atomic_ref<uint16_t> Atomic16(uint8_t* at) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at));
}
std::atomic_ref<uint32_t> Atomic32(uint8_t* at) {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(at));
}

// Where the guest has what this process has at `data`, which is guest memory.
GuestAddress AddressOf(const GuestMemory& memory, const void* data) {
  const auto place = reinterpret_cast<uintptr_t>(data);
  for (const GuestMemory::Range& range : memory.ranges()) {
    const uintptr_t offset = place - reinterpret_cast<uintptr_t>(range.mapping.data());
    if (offset < range.mapping.size()) return range.start + offset;
  }
  abort();
}

}  // namespace

size_t RelayRing::SizeBytes(uint16_t size, size_t buffers) {
  return TablesOffset(size) + RoundUp(size * buffers * sizeof(Descriptor));
}

RelayRing::RelayRing(uint8_t* memory, GuestAddress address, uint16_t size, size_t buffers)
    : memory_(memory), address_(address), size_(size), buffers_(buffers), chains_(size) {}

virtio::QueueSetup RelayRing::setup() const {
  return {.size = size_,
          .descriptor_table = address_,
          .driver_area = address_ + AvailableOffset(size_),
          .device_area = address_ + UsedOffset(size_)};
}

Descriptor* RelayRing::Table(uint16_t head) const {
  return reinterpret_cast<Descriptor*>(memory_ + TablesOffset(size_)) + head * buffers_;
}

uint64_t* RelayRing::Notes() const {
  return reinterpret_cast<uint64_t*>(memory_ + NotesOffset(size_));
}

std::vector<RelayRing::Completion> RelayRing::Recover(uint16_t used) const {
  std::vector<Completion> completions;
  const auto load = [](uint64_t& place) {
    return std::atomic_ref<uint64_t>(place).load(std::memory_order_relaxed);
  };
  std::vector<bool> known(size_);
  for (uint16_t head = 0; head < size_; ++head) {
    const uint64_t note = load(Notes()[head]);
    const auto place = static_cast<uint16_t>(note >> 32);
    if ((note & kIsNote) == 0 || static_cast<int16_t>(used - place) > 0) continue;
    known[head] = true;
    completions.push_back({head, static_cast<uint32_t>(note)});
  }
  const auto taken = static_cast<uint16_t>(load(*Taken()));
  const uint16_t end = used_index();
  if (static_cast<uint16_t>(end - taken) > size_) return completions;  // no back end does that
  for (uint16_t i = taken; i != end; ++i) {
    uint8_t* const entry =
        memory_ + UsedOffset(size_) + virtio::kUsedRing + virtio::kUsedElementSize * (i % size_);
    const uint32_t head = Atomic32(entry).load(std::memory_order_relaxed);
    if (head >= size_ || known[head]) continue;
    known[head] = true;
    completions.push_back(
        {static_cast<uint16_t>(head), Atomic32(entry + 4).load(std::memory_order_relaxed)});
  }
  return completions;
}

void RelayRing::NoteRecovered(absl::Span<const Completion> completions, uint16_t used) {
  for (const Completion& done : completions) {
    StoreInOrder(Notes()[done.head], MakeNote(used++, done.written));
  }
  CRASH_POINT("recovery_noted");
  StoreInOrder(*Taken(), used_index());
}

void RelayRing::Clear() {
  uint8_t* const rings = memory_ + AvailableOffset(size_);
  std::fill(rings, memory_ + TablesOffset(size_), 0);
  next_available_ = next_used_ = 0;
  noted_.clear();
  for (Chain& chain : chains_) chain.is_pushed = false;
}

void RelayRing::Prepare(const GuestMemory& memory, const virtio::DescriptorChain& chain) {
  Descriptor* const table = Table(chain.head);
  size_t count = 0;
  const auto add = [&](const iovec& buffer, uint16_t flags) {
    table[count] = {.address = AddressOf(memory, buffer.iov_base),
                    .length = static_cast<uint32_t>(buffer.iov_len),
                    .flags = static_cast<uint16_t>(flags | virtio::kDescriptorNext),
                    .next = static_cast<uint16_t>(count + 1)};
    ++count;
  };
  uint32_t writable_bytes = 0;
  for (const iovec& buffer : chain.readable) add(buffer, 0);
  for (const iovec& buffer : chain.writable) {
    add(buffer, virtio::kDescriptorWrite);
    writable_bytes += static_cast<uint32_t>(buffer.iov_len);
  }
  table[count - 1].flags &= ~virtio::kDescriptorNext;
  reinterpret_cast<Descriptor*>(memory_)[chain.head] = {
      .address = address_ + TablesOffset(size_) + chain.head * buffers_ * sizeof(Descriptor),
      .length = static_cast<uint32_t>(count * sizeof(Descriptor)),
      .flags = virtio::kDescriptorIndirect,
      .next = 0};
  chains_[chain.head].writable_bytes = writable_bytes;
}

void RelayRing::Push(uint16_t head) {
  chains_[head].is_pushed = true;
  uint8_t* const available = memory_ + AvailableOffset(size_);
  Atomic16(available + virtio::kAvailableRing + 2 * (next_available_++ % size_))
      .store(head, std::memory_order_relaxed);
  // release: publishes entry and descriptors. Pairs with the back end's acquire of the index.
  Atomic16(available + virtio::kAvailableIdx).store(next_available_, std::memory_order_release);
}

uint16_t RelayRing::used_index() const {
  // acquire: pairs with the back end's release after it has written the entry and the data.
  return Atomic16(memory_ + UsedOffset(size_) + virtio::kUsedIdx).load(std::memory_order_acquire);
}

bool RelayRing::has_completed() const { return used_index() != next_used_; }

absl::Status RelayRing::Pop(
    uint16_t used, const std::function<void(uint16_t head, uint32_t written)>& on_completed) {
  const uint16_t end = used_index();
  while (next_used_ != end) {
    uint8_t* const entry = memory_ + UsedOffset(size_) + virtio::kUsedRing +
                           virtio::kUsedElementSize * (next_used_ % size_);
    // relaxed: ordered by the acquire of the index.
    const uint32_t head = Atomic32(entry).load(std::memory_order_relaxed);
    const uint32_t written = Atomic32(entry + 4).load(std::memory_order_relaxed);
    if (head >= size_ || !chains_[head].is_pushed) {
      return absl::InvalidArgumentError(
          absl::StrCat("the back end has completed request ", head, ", which it does not have"));
    }
    const auto chain = static_cast<uint16_t>(head);
    StoreInOrder(Notes()[chain], MakeNote(used++, Clamp(chain, written)));
    noted_.push_back(chain);
    CRASH_POINT("completion_noted");
    StoreInOrder(*Taken(), ++next_used_);
    CRASH_POINT("completion_taken");
    chains_[chain].is_pushed = false;
    on_completed(chain, Clamp(chain, written));
  }
  return absl::OkStatus();
}

void RelayRing::Shown() {
  CRASH_POINT("completions_shown");
  for (const uint16_t head : noted_) StoreInOrder(Notes()[head], 0);
  noted_.clear();
}

}  // namespace bulkhead::devices::vhost_user
