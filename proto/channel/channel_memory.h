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
#include "proto/channel/wake_pipe.h"

namespace bulkhead::channel {

struct ChannelOptions {
  uint32_t slots = 256;  // request ring entries: a power of two, kMinSlots to kMaxSlots
  uint32_t waiters = 0;  // who may wait for answers: one a vCPU, then one for the vmm itself
  // How long a waiter polls before it sleeps, at most. Zero wherever this process has one CPU.
  absl::Duration max_poll = absl::Microseconds(50);
  // A call that sleeps for longer than this, for room in the ring or for its answer, tells by
  // `on_slow(waiter, true)`, and by `on_slow(waiter, false)` when it wakes up for good. Both on the
  // call's thread; they must return at once.
  absl::Duration slow_after = absl::InfiniteDuration();
  std::function<void(uint32_t waiter, bool slow)> on_slow = {};
};

// How many CPUs this process may run on. Needs no file system. At least 1.
int AvailableCpus();

// Request memory, typed. Copyable; points into a mapping that must outlive it.
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

// Response memory, typed. Copyable; points into a mapping that must outlive it.
class ResponseView {
 public:
  static size_t SizeBytes(uint32_t waiters);
  // SizeBytes(waiters) bytes are mapped at `base`.
  explicit ResponseView(uint8_t* base);

  ResponseHeader& header() const { return *header_; }
  CompletionSlot& completion(uint32_t waiter) const { return completions_[waiter]; }

 private:
  ResponseHeader* header_;
  CompletionSlot* completions_;
};

// All that a channel consists of, created and owned by the vmm. It outlives the device
// processes that work on it one after the other. Move-only.
struct ChannelMemory {
  // Creates, maps and seals both memory files. Errors: InvalidArgument (options), else as
  // memfd_create(2), mmap(2), eventfd(2), pipe2(2).
  static absl::StatusOr<ChannelMemory> Create(const ChannelOptions& options);

  UniqueFd request_memory;
  MemoryMapping request_mapping;  // writable; the last mapping that ever will be
  UniqueFd response_memory;
  MemoryMapping response_mapping;  // read-only
  WakePipe request_event;
  std::vector<EventFd> completion_events;  // one a waiter
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_MEMORY_H_
