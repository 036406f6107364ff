#include "proto/channel/trace_ring.h"

#include <algorithm>

namespace bulkhead::channel {

void TraceRecorder::Write(const TraceRecord& record) const {
  // relaxed: this thread's own. A predecessor may have left any value.
  const uint64_t n = ring_->head.load(std::memory_order_relaxed);
  TraceRing::Slot& slot = ring_->slots[n % TraceRing::kSlots];
  const uint64_t shape = uint64_t{record.kind} | uint64_t{record.operation} << 8 |
                         uint64_t{record.size_bytes} << 16 | uint64_t{record.region} << 24 |
                         uint64_t{record.index} << 32;
  // release, each: a reader that finds a word of this record where it looks for the record of a
  // round ago (acquire) then also finds the head that the record before this one has written, and
  // knows that the old record is gone. With relaxed words it could take a mixture for a record.
  slot.words[0].store(record.time_ns, std::memory_order_release);
  slot.words[1].store(record.a, std::memory_order_release);
  slot.words[2].store(record.b, std::memory_order_release);
  slot.words[3].store(shape, std::memory_order_release);
  // release: publishes the slot. Pairs with the first load in TraceReader::Read().
  ring_->head.store(n + 1, std::memory_order_release);
}

void TraceReader::SkipToEnd() { next_ = ring_->head.load(std::memory_order_acquire); }

uint64_t TraceReader::Read(size_t limit, std::vector<TraceRecord>& records) {
  // acquire: pairs with the store in Write(), which publishes the slots below it.
  const uint64_t head = ring_->head.load(std::memory_order_acquire);
  if (head < next_) {  // no honest writer does that
    next_ = head;
    return 0;
  }
  uint64_t lost = 0;
  if (head - next_ > TraceRing::kSlots) {
    lost = head - next_ - TraceRing::kSlots;
    next_ = head - TraceRing::kSlots;
  }
  const size_t count = static_cast<size_t>(std::min<uint64_t>(limit, head - next_));
  const size_t first = records.size();
  for (size_t i = 0; i < count; ++i) {
    const TraceRing::Slot& slot = ring_->slots[(next_ + i) % TraceRing::kSlots];
    // acquire, each: see Write(). Each word is read once.
    TraceRecord& record = records.emplace_back();
    record.time_ns = slot.words[0].load(std::memory_order_acquire);
    record.a = slot.words[1].load(std::memory_order_acquire);
    record.b = slot.words[2].load(std::memory_order_acquire);
    const uint64_t shape = slot.words[3].load(std::memory_order_acquire);
    record.kind = static_cast<uint8_t>(shape);
    record.operation = static_cast<uint8_t>(shape >> 8);
    record.size_bytes = static_cast<uint8_t>(shape >> 16);
    record.region = static_cast<uint8_t>(shape >> 24);
    record.index = static_cast<uint32_t>(shape >> 32);
  }
  // What the writer was in the middle of overwriting meanwhile, the record at this head included.
  const uint64_t head_after = ring_->head.load(std::memory_order_acquire);
  const uint64_t whole_from =
      head_after >= TraceRing::kSlots ? head_after - TraceRing::kSlots + 1 : 0;
  const uint64_t torn = whole_from > next_ ? std::min<uint64_t>(count, whole_from - next_) : 0;
  const auto begin = records.begin() + static_cast<ptrdiff_t>(first);
  records.erase(begin, begin + static_cast<ptrdiff_t>(torn));
  next_ += count;
  return lost + torn;
}

}  // namespace bulkhead::channel
