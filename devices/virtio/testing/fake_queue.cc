#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <utility>

#include "devices/virtio/testing/fake_driver.h"

namespace bulkhead::devices::virtio {
namespace {

std::atomic_ref<uint16_t> Atomic16(uint8_t* p) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(p));
}
std::atomic_ref<uint32_t> Atomic32(uint8_t* p) {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(p));
}

uint64_t DescriptorBytes(uint16_t size) { return uint64_t{size} * sizeof(Descriptor); }
uint64_t AvailableBytes(uint16_t size) {
  return (kAvailableRing + 2 * uint64_t{size} + 2 + 3) & ~uint64_t{3};
}
uint64_t UsedBytes(uint16_t size) { return kUsedRing + kUsedElementSize * uint64_t{size} + 2; }

}  // namespace

uint64_t FakeQueue::SizeBytes(uint16_t size) {
  return DescriptorBytes(size) + AvailableBytes(size) + UsedBytes(size);
}

FakeQueue::FakeQueue(const GuestMemory& memory, GuestAddress address, uint16_t size,
                     bool event_index)
    : memory_(memory), size_(size), event_index_(event_index), chains_(size) {
  setup_.size = size;
  setup_.descriptor_table = address;
  setup_.driver_area = setup_.descriptor_table + DescriptorBytes(size);
  setup_.device_area = setup_.driver_area + AvailableBytes(size);
  descriptors_ = memory.HostPointer(address, SizeBytes(size));
  if (descriptors_ == nullptr) abort();
  memset(descriptors_, 0, SizeBytes(size));
  available_ = descriptors_ + DescriptorBytes(size);
  used_ = available_ + AvailableBytes(size);
  for (uint16_t i = 0; i < size; ++i) free_.push_back(size - 1 - i);
}

std::optional<uint16_t> FakeQueue::Add(absl::Span<const Buffer> buffers) {
  if (buffers.empty() || buffers.size() > free_.size()) return std::nullopt;
  std::vector<uint16_t> chain;
  for (size_t i = 0; i < buffers.size(); ++i) {
    chain.push_back(free_.back());
    free_.pop_back();
  }
  for (size_t i = 0; i < chain.size(); ++i) {
    const bool last = i + 1 == chain.size();
    const uint16_t flags =
        (last ? 0 : kDescriptorNext) | (buffers[i].writable ? kDescriptorWrite : 0);
    WriteDescriptor(chain[i], {buffers[i].address, buffers[i].length, flags,
                               last ? uint16_t{0} : chain[i + 1]});
  }
  const uint16_t head = chain[0];
  chains_[head] = std::move(chain);
  MakeAvailable(head);
  return head;
}

std::optional<uint16_t> FakeQueue::AddIndirect(absl::Span<const Buffer> buffers,
                                               GuestAddress table) {
  if (free_.empty()) return std::nullopt;
  for (size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    const uint16_t flags =
        (last ? 0 : kDescriptorNext) | (buffers[i].writable ? kDescriptorWrite : 0);
    const Descriptor entry{buffers[i].address, buffers[i].length, flags,
                           static_cast<uint16_t>(last ? 0 : i + 1)};
    if (!memory_.WriteObject(table + i * sizeof(Descriptor), entry)) abort();
  }
  const uint16_t head = free_.back();
  free_.pop_back();
  WriteDescriptor(head, {table, static_cast<uint32_t>(buffers.size() * sizeof(Descriptor)),
                         kDescriptorIndirect, 0});
  chains_[head] = {head};
  MakeAvailable(head);
  return head;
}

bool FakeQueue::NeedsDoorbell() {
  // seq_cst here and in SetAvailableIdx(): the partner of Virtqueue::RearmDoorbell().
  const uint16_t old_idx = std::exchange(last_kicked_, next_available_);
  if (event_index_) {
    const uint16_t event =
        Atomic16(used_ + kUsedRing + kUsedElementSize * size_).load(std::memory_order_seq_cst);
    return PassesEvent(event, next_available_, old_idx);
  }
  return (Atomic16(used_).load(std::memory_order_seq_cst) & kUsedNoNotify) == 0;
}

std::optional<UsedElement> FakeQueue::PopUsed() {
  // acquire: pairs with the release in Virtqueue::Publish().
  if (Atomic16(used_ + kUsedIdx).load(std::memory_order_acquire) == next_used_) {
    return std::nullopt;
  }
  uint8_t* element = used_ + kUsedRing + kUsedElementSize * (next_used_ % size_);
  UsedElement used{Atomic32(element).load(std::memory_order_relaxed),
                   Atomic32(element + 4).load(std::memory_order_relaxed)};
  ++next_used_;
  if (used.id < size_) {
    for (const uint16_t index : chains_[used.id]) free_.push_back(index);
    chains_[used.id].clear();
  }
  return used;
}

bool FakeQueue::EnableInterrupts() {
  // seq_cst of the store and the load: the partner of Virtqueue::Publish().
  if (event_index_) {
    Atomic16(available_ + kAvailableRing + 2 * size_).store(next_used_, std::memory_order_seq_cst);
  } else {
    Atomic16(available_).store(0, std::memory_order_seq_cst);
  }
  return Atomic16(used_ + kUsedIdx).load(std::memory_order_seq_cst) != next_used_;
}

void FakeQueue::DelayInterrupts(uint16_t count) {
  Atomic16(available_ + kAvailableRing + 2 * size_)
      .store(next_used_ + count - 1, std::memory_order_relaxed);
}

void FakeQueue::DisableInterrupts() {
  // With the event index: an index that has just been passed.
  if (event_index_) {
    Atomic16(available_ + kAvailableRing + 2 * size_)
        .store(next_used_ - 1, std::memory_order_relaxed);
  } else {
    Atomic16(available_).store(kAvailableNoInterrupt, std::memory_order_relaxed);
  }
}

void FakeQueue::WriteDescriptor(uint16_t index, const Descriptor& value) {
  memcpy(descriptor(index), &value, sizeof(value));
}

void FakeQueue::MakeAvailable(uint16_t head) {
  Atomic16(available_ + kAvailableRing + 2 * (next_available_ % size_))
      .store(head, std::memory_order_relaxed);
  SetAvailableIdx(next_available_ + 1);
}

void FakeQueue::SetAvailableIdx(uint16_t idx) {
  next_available_ = idx;
  // release, and more: see NeedsDoorbell(). Pairs with Virtqueue::RefreshAvailable().
  Atomic16(available_ + kAvailableIdx).store(idx, std::memory_order_seq_cst);
}

uint16_t FakeQueue::used_idx() const {
  return Atomic16(used_ + kUsedIdx).load(std::memory_order_acquire);
}

}  // namespace bulkhead::devices::virtio
