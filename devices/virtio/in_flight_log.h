#ifndef BULKHEAD_DEVICES_VIRTIO_IN_FLIGHT_LOG_H_
#define BULKHEAD_DEVICES_VIRTIO_IN_FLIGHT_LOG_H_

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace bulkhead::devices::virtio {

// The chains of a split virtqueue that the device has taken and not given back yet, in memory that
// outlives the process: a successor does exactly those again. (The split-ring in-flight region of
// vhost-user, with fewer stores.)
//
// The steps of a chain, in this order. A process may die between any two:
//
//   1 Popped       counter[head] = a number above all before     it is in flight
//   2 Completed    completed[used index] = head                   of no consequence yet
//   3              the used element is written                    of no consequence yet
//   4              used.idx moves past it                         the driver has it back
//   5 Published    counter[head] = 0
//   6              used_idx follows used.idx
//
// Step 4 alone decides, and it is in guest memory: where used.idx and used_idx differ, step 5 may
// be missing for the chains between the two. completed[] names them, and Recover() does that step.
// A chain that was completed and not shown is in flight again, and is done again.
//
// Nothing else is needed: all that was popped is shown or in flight, so the next available entry
// to pop is used.idx plus the number in flight. No step takes two stores, so none can be half done.
//
// Order: one thread writes, and the reader starts after the kernel has reported that thread's
// process dead. By then it sees every store before the death and none after it, so only the
// compiler must keep the program's order: atomic_signal_fence.
//
// Single-threaded. Only Recover() reads the memory. Its writer may have been compromised, so it is
// checked. So is the driver's part. All other functions only write it: another process may have the
// memory as well, as a vhost-user back end does, and write there at any time.
class InFlightLog {
 public:
  // For queues of up to `max_size` entries.
  static constexpr size_t SizeBytes(uint16_t max_size) {
    return (sizeof(Header) + max_size * (sizeof(uint64_t) + sizeof(uint16_t)) + 63) / 64 * 64;
  }

  // In `memory`, SizeBytes(max_size) of them, 8-byte aligned; outlives this.
  InFlightLog(absl::Span<uint8_t> memory, uint16_t max_size);

  // Starts anew for a queue of `size` entries whose used index is 0. `epoch` tells this enabling
  // of the queue from earlier ones: it is saved with the device's state, after this call and
  // before anything is popped.
  void Begin(uint32_t epoch, uint16_t size);

  // Step 1.
  void Popped(uint16_t head);
  // Step 2; `used_idx` is where it will be in the used ring.
  void Completed(uint16_t used_idx, uint16_t head);
  // Steps 5 and 6, after used.idx went from `from` to `to`. Calls back with each head.
  void Published(uint16_t from, uint16_t to, absl::FunctionRef<void(uint16_t)> on_head);

  // Takes over a predecessor's log, instead of Begin(). `used_idx` is what guest memory holds now.
  // Returns the heads in flight, in the order in which they were popped; serve them again, without
  // Popped(). May be repeated; the process may die in it as in every other step. Errors:
  // InvalidArgument, for people: the log is impossible, and nothing can be popped from such a
  // queue.
  absl::StatusOr<std::vector<uint16_t>> Recover(uint32_t epoch, uint16_t size, uint16_t used_idx);

 private:
  struct Header {
    uint32_t epoch;
    uint16_t size;
    uint16_t used_idx;
    uint64_t reserved;
  };
  static_assert(sizeof(Header) == 16);

  const uint16_t max_size_;
  Header* const header_;
  uint64_t* const counters_;             // by head; 0: not in flight
  uint16_t* const completed_;            // heads by used index, modulo the queue's size
  std::vector<uint16_t> own_completed_;  // the same, of this process: Published() reads these
  uint16_t size_ = 1;
  uint64_t last_counter_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_IN_FLIGHT_LOG_H_
