#ifndef BULKHEAD_DEVICES_VHOST_USER_RELAY_RING_H_
#define BULKHEAD_DEVICES_VHOST_USER_RELAY_RING_H_

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/guest_memory.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::vhost_user {

// The driver's side of a split virtqueue (virtio 1.2, section 2.7), in memory that a back end
// shares. Each request is one descriptor, with the driver's number of its chain, and an indirect
// table. The back end is not trusted: what it writes is read once and checked.
//
// In durable memory a successor finds what the back end has completed: Recover(). Beside the rings
// lies for that how many used entries were taken, and for each chain whose completion the driver
// may not have seen yet, what it was and where the driver sees it. The steps, between any two of
// which the process may die:
//
//   1 the back end completes the chain   the used ring has it, beyond the entries taken
//   2 Pop() notes the completion
//   3 Pop() counts the entry as taken
//   4 the driver's used index moves past the noted place
//   5 Shown() removes the note           before the chain can be pushed again
//
// A successor does 2 and 3 once more, for all that it has recovered, and then 4: it may die as
// well.
//
// Single-threaded; the back end runs concurrently.
class RelayRing {
 public:
  // Requests of `buffers` buffers at most.
  static size_t SizeBytes(uint16_t size, size_t buffers);

  RelayRing() = default;
  // `memory`: SizeBytes(), page-aligned, at `address` for the back end.
  RelayRing(uint8_t* memory, GuestAddress address, uint16_t size, size_t buffers);

  // How the back end finds it.
  virtio::QueueSetup setup() const;

  struct Completion {
    uint16_t head;
    uint32_t written;
  };
  // What a predecessor's back end has completed and the driver has not seen, `used` being the
  // driver's used index. The back end does not use the ring any more. Heads are below the size.
  std::vector<Completion> Recover(uint16_t used) const;
  // Before the driver sees any of what Recover() has given, in this order: the next successor finds
  // what it has not seen, and no more. A chain that it has seen may be another request by then.
  void NoteRecovered(absl::Span<const Completion> completions, uint16_t used);

  // Empties it. The back end does not use it.
  void Clear();
  // Writes the chain's buffers down. The back end does not see it yet.
  void Prepare(const GuestMemory& memory, const virtio::DescriptorChain& chain);
  // Makes a prepared chain available.
  void Push(uint16_t head);
  // What the back end has completed, in order. `used`: where the first of them will be in the
  // driver's used ring. Shown() follows. Errors: InvalidArgument, for people: it has not been given
  // what it says to have completed.
  absl::Status Pop(uint16_t used,
                   const std::function<void(uint16_t head, uint32_t written)>& on_completed);
  // The driver sees all that Pop() has given.
  void Shown();
  // No more than the chain has room for. It is prepared.
  uint32_t Clamp(uint16_t head, uint32_t written) const {
    return std::min(written, chains_[head].writable_bytes);
  }
  // Pop() would give something. One load of shared memory.
  bool has_completed() const;

 private:
  virtio::Descriptor* Table(uint16_t head) const;
  uint16_t used_index() const;
  // By head: 0, or a completion that the driver may not have seen.
  uint64_t* Notes() const;
  // How many entries of the used ring were taken, modulo 2^16.
  uint64_t* Taken() const { return Notes() + size_; }

  uint8_t* memory_ = nullptr;
  GuestAddress address_ = 0;
  uint16_t size_ = 0;
  size_t buffers_ = 0;
  uint16_t next_available_ = 0;
  uint16_t next_used_ = 0;
  struct Chain {
    bool is_pushed = false;
    uint32_t writable_bytes = 0;
  };
  std::vector<Chain> chains_;    // by head
  std::vector<uint16_t> noted_;  // heads
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_RELAY_RING_H_
