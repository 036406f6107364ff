#ifndef BULKHEAD_DEVICES_VHOST_USER_RELAY_RING_H_
#define BULKHEAD_DEVICES_VHOST_USER_RELAY_RING_H_

#include <stddef.h>
#include <stdint.h>

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

  // Empties it. The back end does not use it.
  void Clear();
  // Writes the chain's buffers down. The back end does not see it yet.
  void Prepare(const GuestMemory& memory, const virtio::DescriptorChain& chain);
  // Makes a prepared chain available.
  void Push(uint16_t head);
  // What the back end has completed, in order. Errors: InvalidArgument, for people: it has not been
  // given what it says to have completed.
  absl::Status Pop(const std::function<void(uint16_t head, uint32_t written)>& on_completed);
  // Pop() would give something. One load of shared memory.
  bool has_completed() const;

 private:
  virtio::Descriptor* Table(uint16_t head) const;
  uint16_t used_index() const;

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
  std::vector<Chain> chains_;  // by head
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_RELAY_RING_H_
