#ifndef BULKHEAD_PROTO_CHANNEL_CHANNEL_MEMORY_H_
#define BULKHEAD_PROTO_CHANNEL_CHANNEL_MEMORY_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/trace_ring.h"
#include "proto/channel/wake_pipe.h"

namespace bulkhead::channel {

struct ChannelOptions {
  uint32_t slots = 256;  // request ring entries: a power of two, kMinSlots to kMaxSlots
  uint32_t waiters = 0;  // callers that may wait for answers: one a vCPU, then the vmm itself
  // The longest time that a waiter polls before it sleeps. Zero if this process has one CPU.
  absl::Duration max_poll = absl::Microseconds(50);
  // A call that has slept for this long, for room in the ring or for its answer, calls
  // `on_slow(waiter, true)`, and `on_slow(waiter, false)` when the wait ends. Both run on the
  // call's thread and must return at once.
  absl::Duration slow_after = absl::InfiniteDuration();
  std::function<void(uint32_t waiter, bool slow)> on_slow = {};
};

// The number of CPUs that this process may run on, at least 1. Reads no file.
int AvailableCpus();

// Typed access to request memory. Copyable; the mapping must outlive it.
class RequestView {
 public:
  static size_t SizeBytes(uint32_t slots, uint32_t waiters);
  // `slots` is a power of two, and SizeBytes(slots, waiters) bytes are mapped at `base`.
  RequestView(uint8_t* base, uint32_t slots, uint32_t waiters);

  RequestHeader& header() const { return *header_; }
  WaiterFlags& waiter(uint32_t waiter) const { return waiters_[waiter]; }
  RequestSlot& slot(uint64_t ticket) const { return slots_[ticket & slot_mask_]; }

 private:
  RequestHeader* header_;
  WaiterFlags* waiters_;
  RequestSlot* slots_;
  uint64_t slot_mask_;
};

// Typed access to response memory. Copyable; the mapping must outlive it.
class ResponseView {
 public:
  static size_t SizeBytes(uint32_t waiters);
  // SizeBytes(waiters) bytes are mapped at `base`.
  explicit ResponseView(uint8_t* base);

  ResponseHeader& header() const { return *header_; }
  CompletionSlot& completion(uint32_t waiter) const { return completions_[waiter]; }
  // `waiters`: as for SizeBytes().
  TraceRing& trace(uint32_t waiters) const {
    return *reinterpret_cast<TraceRing*>(completions_ + waiters);
  }
  static size_t TraceOffset(uint32_t waiters) { return SizeBytes(waiters) - sizeof(TraceRing); }

 private:
  ResponseHeader* header_;
  CompletionSlot* completions_;
};

// All memory and events of a channel, created and owned by the vmm. They outlive the device
// processes, which use them one after the other. Move-only.
struct ChannelMemory {
  // Creates, maps and seals both memory files. Errors: InvalidArgument (options), else as
  // memfd_create(2), mmap(2), eventfd(2), pipe2(2).
  static absl::StatusOr<ChannelMemory> Create(const ChannelOptions& options);

  // Undoes what a dead process may have set on the files that it shared. Its signals must not block
  // its successor, nor a waiter of the vmm.
  void ResetSharedFiles() const;

  UniqueFd request_memory;
  MemoryMapping request_mapping;  // writable; the seal forbids further such mappings
  UniqueFd response_memory;
  MemoryMapping response_mapping;  // read-only
  WakePipe request_event;
  std::vector<EventFd> completion_events;  // one a waiter
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_MEMORY_H_
