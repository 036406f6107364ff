#ifndef BULKHEAD_DEVICES_VIRTIO_NET_RECEIVE_QUEUE_H_
#define BULKHEAD_DEVICES_VIRTIO_NET_RECEIVE_QUEUE_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <deque>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::virtio {

// The chains of a receive queue that wait for frames, in the driver's order. A frame lies in the
// first of them, or with mergeable buffers in the first few (virtio 1.2, section 5.1.6.3).
class ReceiveQueue {
 public:
  // `storage_size`: entries that one chain may need.
  explicit ReceiveQueue(size_t storage_size);

  // Where the buffers of the next chain go; empty: too many wait.
  absl::Span<iovec> Room();
  // Takes a chain whose buffers are in what Room() gave. False: it can hold nothing, and is not
  // taken.
  bool Add(const DescriptorChain& chain);

  bool empty() const { return chains_.empty(); }
  uint64_t bytes() const { return bytes_; }

  // The buffers that a frame of up to `wanted` bytes goes to: of one chain, or with `mergeable` of
  // several, `max_buffers` at most. `bytes`: how many fit.
  absl::Span<const iovec> Buffers(uint64_t wanted, bool mergeable, size_t max_buffers,
                                  uint64_t& bytes) const;
  // Copies from and to the start of the waiting buffers; the range lies within bytes().
  void Read(uint64_t offset, absl::Span<uint8_t> out) const;
  void Write(uint64_t offset, absl::Span<const uint8_t> bytes);
  // How many chains a frame of `size` bytes uses.
  uint32_t ChainsFor(uint64_t size) const;
  // Gives back the chains that a frame of `size` bytes lies in, which fits, with the number of its
  // bytes in each.
  void Take(uint64_t size, absl::FunctionRef<void(uint16_t head, uint32_t bytes)> give_back);
  // Gives back all.
  void Clear(absl::FunctionRef<void(uint16_t head)> give_back);

 private:
  struct Chain {
    uint16_t head;
    uint32_t buffers;
    uint64_t bytes;
  };

  const size_t storage_size_;
  std::vector<iovec> buffers_;  // [begin_, end_) are in use
  size_t begin_ = 0;
  size_t end_ = 0;
  std::deque<Chain> chains_;
  uint64_t bytes_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_NET_RECEIVE_QUEUE_H_
