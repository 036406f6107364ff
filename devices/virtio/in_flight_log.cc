#include "devices/virtio/in_flight_log.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_format.h"
#include "devices/virtio/virtqueue_step.h"

namespace bulkhead::devices::virtio {
namespace {

// A number that counting from 1 never reaches, with room above to go on from.
constexpr uint64_t kMaxCounter = uint64_t{1} << 62;

// For tools/bench block alone: a device that keeps no record, to be compared with one that does.
#ifdef BULKHEAD_WITHOUT_IN_FLIGHT_LOG
constexpr bool kKeepsRecord = false;
#else
constexpr bool kKeepsRecord = true;
#endif

template <typename T>
void Store(T& place, T value) {
  static_assert(std::atomic_ref<T>::is_always_lock_free);
  std::atomic_ref<T>(place).store(value, std::memory_order_relaxed);
}
template <typename T>
T Load(T& place) {
  return std::atomic_ref<T>(place).load(std::memory_order_relaxed);
}

}  // namespace

InFlightLog::InFlightLog(absl::Span<uint8_t> memory, uint16_t max_size)
    : max_size_(max_size),
      header_(reinterpret_cast<Header*>(memory.data())),
      counters_(reinterpret_cast<uint64_t*>(memory.data() + sizeof(Header))),
      completed_(reinterpret_cast<uint16_t*>(counters_ + max_size)),
      own_completed_(max_size) {
  const bool aligned = reinterpret_cast<uintptr_t>(memory.data()) % alignof(Header) == 0;
  if (!aligned || memory.size() < SizeBytes(max_size)) abort();  // the caller's error
}

void InFlightLog::Begin(uint32_t epoch, uint16_t size) {
  size_ = size;
  last_counter_ = 0;
  for (uint16_t i = 0; i < size; ++i) {
    Store(counters_[i], uint64_t{0});
    VIRTQUEUE_STEP("begin_counter");
  }
  Store(header_->used_idx, uint16_t{0});
  VIRTQUEUE_STEP("begin_used_idx");
  Store(header_->size, size);
  VIRTQUEUE_STEP("begin_size");
  Store(header_->epoch, epoch);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void InFlightLog::Popped(uint16_t head) {
  if (!kKeepsRecord) return;
  // relaxed, as all of them: see the header. The fences: nothing that the device does with the
  // chain may come first, and what was published before comes first.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  VIRTQUEUE_STEP("before_popped");
  Store(counters_[head], ++last_counter_);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  VIRTQUEUE_STEP("popped");
}

void InFlightLog::Completed(uint16_t used_idx, uint16_t head) {
  own_completed_[used_idx & (size_ - 1)] = head;
  Store(completed_[used_idx & (size_ - 1)], head);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  VIRTQUEUE_STEP("completed");
}

void InFlightLog::Published(uint16_t from, uint16_t to, absl::FunctionRef<void(uint16_t)> on_head) {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  for (uint16_t i = from; i != to; ++i) {
    const uint16_t head = own_completed_[i & (size_ - 1)];
    if (kKeepsRecord) Store(counters_[head], uint64_t{0});
    VIRTQUEUE_STEP("counter_cleared");
    on_head(head);
  }
  if (!kKeepsRecord) return;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  Store(header_->used_idx, to);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  VIRTQUEUE_STEP("published");
}

absl::StatusOr<std::vector<uint16_t>> InFlightLog::Recover(uint32_t epoch, uint16_t size,
                                                           uint16_t used_idx) {
  const uint32_t logged_epoch = Load(header_->epoch);
  const uint16_t logged_size = Load(header_->size);
  if (logged_epoch != epoch || logged_size != size || size > max_size_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the record of chains in flight is of a queue of %d entries, epoch %d, "
                        "instead of %d entries, epoch %d",
                        logged_size, logged_epoch, size, epoch));
  }
  // Between the predecessor's steps 4 and 6, or not at all: one batch at most.
  const uint16_t logged_idx = Load(header_->used_idx);
  const uint16_t unlogged = used_idx - logged_idx;
  if (unlogged > size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "used index %d is %d ahead of the record, in a queue of %d", used_idx, unlogged, size));
  }
  size_ = size;
  for (uint16_t i = 0; i < size; ++i) own_completed_[i] = Load(completed_[i]) & (size - 1);
  Published(logged_idx, used_idx, [](uint16_t) {});

  last_counter_ = 0;
  std::vector<std::pair<uint64_t, uint16_t>> in_flight;
  for (uint16_t head = 0; head < size; ++head) {
    const uint64_t counter = Load(counters_[head]);
    if (counter == 0) continue;
    if (counter > kMaxCounter) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the record of chains in flight holds the counter 0x%x (at most 0x%x)",
                          counter, kMaxCounter));
    }
    in_flight.push_back({counter, head});
    last_counter_ = std::max(last_counter_, counter);
  }
  std::sort(in_flight.begin(), in_flight.end());
  std::vector<uint16_t> heads;
  heads.reserve(in_flight.size());
  for (const auto& [counter, head] : in_flight) heads.push_back(head);
  return heads;
}

}  // namespace bulkhead::devices::virtio
