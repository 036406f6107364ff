#include "devices/virtio/in_flight_log.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace bulkhead::devices::virtio {
namespace {

// A number that counting from 1 never reaches, with room above to go on from.
constexpr uint64_t kMaxCounter = uint64_t{1} << 62;

}  // namespace

InFlightLog::InFlightLog(absl::Span<uint8_t> memory, uint16_t max_size)
    : max_size_(max_size),
      header_(reinterpret_cast<Header*>(memory.data())),
      counters_(reinterpret_cast<uint64_t*>(memory.data() + sizeof(Header))),
      completed_(reinterpret_cast<uint16_t*>(counters_ + max_size)) {
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

absl::StatusOr<std::vector<uint16_t>> InFlightLog::Recover(uint32_t epoch, uint16_t size,
                                                           uint16_t used_idx) {
  if (Load(header_->epoch) != epoch || Load(header_->size) != size || size > max_size_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the record of chains in flight is of a queue of %d entries, number %d, "
                        "instead of %d, number %d",
                        Load(header_->size), Load(header_->epoch), size, epoch));
  }
  // Between the predecessor's steps 4 and 6, or not at all: one batch at most.
  const uint16_t logged_idx = Load(header_->used_idx);
  const uint16_t unlogged = used_idx - logged_idx;
  if (unlogged > size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "used index %d is %d ahead of the record, in a queue of %d", used_idx, unlogged, size));
  }
  size_ = size;
  Published(logged_idx, used_idx, [](uint16_t) {});

  last_counter_ = 0;
  std::vector<std::pair<uint64_t, uint16_t>> in_flight;
  for (uint16_t head = 0; head < size; ++head) {
    const uint64_t counter = Load(counters_[head]);
    if (counter == 0) continue;
    if (counter > kMaxCounter) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the record of chains in flight holds the number 0x%x", counter));
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
