#ifndef BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_H_
#define BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_H_

#include <stdint.h>
#include <sys/uio.h>

#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/guest_memory.h"
#include "devices/virtio/in_flight_log.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::virtio {

// Where the driver has put a queue, and what it has negotiated about it.
struct QueueSetup {
  uint16_t size = 0;
  GuestAddress descriptor_table = 0;
  GuestAddress driver_area = 0;  // the available ring
  GuestAddress device_area = 0;  // the used ring
};

// One request of the driver: its buffers, as this process can touch them. The guest may change
// the bytes at any time.
struct DescriptorChain {
  uint16_t head = 0;
  absl::Span<iovec> readable;  // written by the driver, in order
  absl::Span<iovec> writable;  // to be filled by the device, in order
};

// The device's side of one split virtqueue (virtio 1.2, section 2.7). The driver is hostile:
// whatever breaks the rules stops this queue and is reported, once, through `on_violation`.
//
// VirtioCore::ServeQueue() shows how to serve it: SuppressDoorbells(), Pop() until there is nothing
// more, and all of it again while HasAvailable(); before a sleep RearmDoorbell(), and all of it
// again if chains have come meanwhile.
//
// Pop() and Complete() bracket a chain's time in flight; Publish() ends a batch of completions.
// Single-threaded on the device's side; the driver's CPUs run concurrently.
//
// What is in flight outlives the process: see InFlightLog. A successor Resume()s, and Pop() first
// gives it, in their order, the chains that its predecessor had taken and not shown as used.
class Virtqueue {
 public:
  // `durable_memory`: as InFlightLog wants it; without any, nothing outlives this object.
  Virtqueue(uint16_t max_size, absl::AnyInvocable<void(absl::string_view)> on_violation,
            absl::Span<uint8_t> durable_memory = {});

  // Starts at index 0 of rings that the driver has just set up; pops nothing until
  // SetServing(true), before which `epoch` is to be saved, another one each time. `memory`
  // outlives the queue. Errors: InvalidArgument, for the log: the size is 0, above the maximum or
  // no power of two; a ring is misaligned or outside memory.
  absl::Status Enable(const GuestMemory& memory, const QueueSetup& setup, bool event_index,
                      bool indirect_descriptors, uint32_t epoch = 0);
  // The same with rings that a predecessor has Enable()d with this epoch and served. Looks at
  // them with the first SetServing(true): not before the device may touch guest memory.
  absl::Status Resume(const GuestMemory& memory, const QueueSetup& setup, bool event_index,
                      bool indirect_descriptors, uint32_t epoch);
  // From now on nothing is popped, and Complete() does not touch guest memory any more.
  void Stop();
  // Forgets the rings. Nothing may be in flight.
  void Disable();
  // Lets Pop() return chains, or holds them back.
  void SetServing(bool serving);

  bool enabled() const { return state_ == State::kEnabled; }
  bool serving() const { return serving_; }
  bool stopping() const { return state_ == State::kStopping; }
  uint16_t max_size() const { return max_size_; }
  // Chains popped and not completed; at most the queue's size.
  uint32_t in_flight() const { return in_flight_count_; }
  // Chains of predecessors that this process has served again.
  uint64_t resubmitted() const { return resubmitted_; }

  // Entries of storage that each legal chain fits into: one a descriptor, or two where `memory` has
  // ranges that adjoin each other, for a buffer may cross from one into the next.
  static size_t StorageSize(uint16_t max_size, const GuestMemory& memory) {
    return size_t{max_size} * (memory.has_adjoining_ranges() ? 2 : 1);
  }

  // Takes the next available chain. Its buffers use entries of `storage`, which bounds their
  // number: see StorageSize(). False: none, or not serving.
  bool Pop(absl::Span<iovec> storage, DescriptorChain& chain);

  // Pop() would give a chain, or find a violation. One load of shared memory.
  bool HasAvailable() const;

  // Gives a chain back, with the number of bytes written from the start of its writable part.
  // The driver sees it with the next Publish().
  void Complete(uint16_t head, uint32_t written_bytes);

  // Shows the driver all completed chains. True: it wants an interrupt for them.
  [[nodiscard]] bool Publish();

  // Asks the driver not to ring. A hint: doorbells may come nevertheless.
  void SuppressDoorbells();
  // Asks the driver to ring for the next chain. True: one came in the meantime, for which it
  // will not ring: go on serving.
  [[nodiscard]] bool RearmDoorbell();

 private:
  enum class State { kDisabled, kEnabled, kStopping };
  enum class Chain : uint8_t { kDrivers, kPopped, kCompleted };  // kCompleted: not shown yet
  struct Table {
    const uint8_t* entries;  // nullptr: it crosses from one range of guest memory into another
    GuestAddress address;
    uint32_t count;
  };

  absl::Status SetUp(const GuestMemory& memory, const QueueSetup& setup, bool event_index,
                     bool indirect_descriptors, uint32_t epoch);
  void Recover();
  bool PopAgain(absl::Span<iovec> storage, DescriptorChain& chain);
  bool RefreshAvailable();
  Descriptor EntryAcrossRanges(const Table& table, uint32_t index) const;
  bool Walk(uint16_t head, absl::Span<iovec> storage, DescriptorChain& chain);
  bool Violation(absl::string_view what);

  const uint16_t max_size_;
  absl::AnyInvocable<void(absl::string_view)> on_violation_;
  std::vector<uint64_t> own_memory_;  // where no durable memory was given
  InFlightLog log_;

  State state_ = State::kDisabled;
  bool serving_ = false;
  bool broken_ = false;
  bool event_index_ = false;
  bool indirect_descriptors_ = false;

  // The rings, looked up once: guest memory does not move while this process lives.
  const GuestMemory* memory_ = nullptr;
  const uint8_t* descriptors_ = nullptr;
  uint8_t* available_ = nullptr;  // written by the driver only
  uint8_t* used_ = nullptr;       // written by the device only; read back after a Resume() only
  uint16_t size_ = 0;
  uint32_t epoch_ = 0;

  uint16_t available_idx_ = 0;   // the driver's index, as last read
  uint16_t next_available_ = 0;  // the next entry to pop
  uint16_t next_used_ = 0;       // the next entry to fill
  uint16_t published_used_ = 0;  // used.idx as the driver sees it
  uint32_t in_flight_count_ = 0;
  std::vector<Chain> chains_;  // by head

  bool recovery_due_ = false;
  std::vector<uint16_t> to_resubmit_;  // heads, the next one last
  uint64_t resubmitted_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_H_
