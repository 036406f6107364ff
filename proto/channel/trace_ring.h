#ifndef BULKHEAD_PROTO_CHANNEL_TRACE_RING_H_
#define BULKHEAD_PROTO_CHANNEL_TRACE_RING_H_

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <vector>

// A ring of records of what happens, while a trace runs: of one thread of the vmm, in its own
// memory, or of a device process, in the channel's response memory. One thread writes, overwriting
// the oldest records; one reads, and finds out what it has missed.

namespace bulkhead::channel {

struct TraceRecord {
  // kAccess is of the vmm, all others of a device process.
  enum Kind : uint8_t {
    kAccess = 1,    // of a vCPU, which has ended: a = when it began, b = offset
    kDoorbell = 2,  // is served; index
    kMsix = 3,      // is sent; index = vector
    kLine = 4,      // the interrupt line is raised
    // From a virtqueue: index = queue, a = head, b = BytesOfBuffers().
    kTaken = 5,
    kCompleted = 6,  // to the virtqueue: index = queue, a = head, b = bytes written
  };

  uint64_t time_ns = 0;  // CLOCK_MONOTONIC
  uint64_t a = 0;
  uint64_t b = 0;
  uint8_t kind = 0;
  uint8_t operation = 0;   // of an access: Operation
  uint8_t size_bytes = 0;  // of an access
  uint8_t region = 0;      // of an access
  uint32_t index = 0;      // of an access: which device of the vmm
};

// The bytes that a request has for the device to read, and to write. Each is less than 4 GiB by
// virtio 1.2, 2.7.5.2; more counts as that.
inline uint64_t BytesOfBuffers(uint64_t readable, uint64_t writable) {
  return std::min<uint64_t>(readable, UINT32_MAX) | std::min<uint64_t>(writable, UINT32_MAX) << 32;
}

inline uint64_t TraceNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);  // in the vDSO
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// The memory of a ring; zeroes are an empty one.
struct TraceRing {
  // At 800,000 records a second, which a disk at full speed makes, the time between two looks of
  // the reader and as much again.
  static constexpr size_t kSlots = size_t{1} << 16;

  struct alignas(32) Slot {
    std::atomic<uint64_t> words[4];
  };

  alignas(64) std::atomic<uint64_t> head;  // records ever written
  alignas(64) Slot slots[kSlots];
};
static_assert(sizeof(TraceRing) == 64 + TraceRing::kSlots * 32);

inline const std::atomic<uint32_t> kNeverTraced{0};

// The writing end. Copies write to the same ring, on the same thread.
class TraceRecorder {
 public:
  TraceRecorder() = default;  // records nothing
  // Both outlive this. `on`: not zero while a trace runs.
  TraceRecorder(const std::atomic<uint32_t>& on, TraceRing& ring) : on_(&on), ring_(&ring) {}

  // relaxed: late is harmless. Nothing else is read for it.
  bool on() const { return __builtin_expect(on_->load(std::memory_order_relaxed) != 0, 0); }

  // Call while on(). Does not lock, wait or allocate.
  void Write(const TraceRecord& record) const;

  // The same with the present time.
  void Write(TraceRecord::Kind kind, uint32_t index, uint64_t a = 0, uint64_t b = 0) const {
    Write({.time_ns = TraceNow(), .a = a, .b = b, .kind = kind, .index = index});
  }

 private:
  const std::atomic<uint32_t>* on_ = &kNeverTraced;
  TraceRing* ring_ = nullptr;
};

// The reading end. The writer may be hostile: what Read() gives is a copy, of which each word may
// be anything, and it gives a bounded number. Thread-compatible.
class TraceReader {
 public:
  explicit TraceReader(const TraceRing& ring) : ring_(&ring) { SkipToEnd(); }

  void SkipToEnd();
  // Appends the next records to `records`, `limit` at most. Returns how many have been overwritten
  // before they were read.
  uint64_t Read(size_t limit, std::vector<TraceRecord>& records);

 private:
  const TraceRing* ring_;
  uint64_t next_ = 0;
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_TRACE_RING_H_
