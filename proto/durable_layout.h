#ifndef BULKHEAD_PROTO_DURABLE_LAYOUT_H_
#define BULKHEAD_PROTO_DURABLE_LAYOUT_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>

// The memory file in which a device's state outlives its processes. The vmm creates it, zeroed
// and sealed against shrinking and growing, hands it to each process, and reads nothing of it but
// OwedFailure: what it holds is between a device process and its successor, which trusts none of
// it.
//
//   0                    DurableHeader
//   kOwedFailureOffset   OwedFailure
//   kSlotsOffset         slot 0: SlotHeader, then the saved state
//   + SlotBytes(n)       slot 1
//   DurableMemoryOffset  the model's own memory (virtqueues in flight), page-aligned
//
// A save goes into the slot that is not the newest: sequence to 0, contents, checksum, then the
// sequence. The slot with the higher sequence is the state; one whose writer died in the middle has
// the sequence 0. All zeroes: no state; the device starts as after power-on. A checksum that does
// not hold below a sequence is no death's work but somebody's scribbling: nothing is loaded then,
// not the other slot either, which lacks what the guest has been told since.

namespace bulkhead {

inline constexpr uint32_t kMaxSavedStateBytes = 256 * 1024;
inline constexpr uint64_t kMaxDurableMemoryBytes = 16 * 1024 * 1024;

namespace durable {

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kSlotsOffset = 64;

struct DurableHeader {
  uint64_t magic;  // kDurableMagic once a process has attached
  uint32_t version;
  uint32_t state_version;  // PciInfo.state_version of who wrote it
};
inline constexpr uint64_t kDurableMagic = 0x656c6261727564bb;  // "\xbbdurable"
inline constexpr uint32_t kDurableVersion = 1;

// Not 0: the guest has yet to be told that data could not be written back. Not in a slot, since a
// reset of the device changes nothing about it; and where the state is discarded, the vmm tells it
// to the next process (attach.proto).
struct OwedFailure {
  std::atomic<uint32_t> owed;
};
inline constexpr size_t kOwedFailureOffset = 32;

struct SlotHeader {
  std::atomic<uint64_t> sequence;  // of saves, from 1; 0: being written, or never was
  uint64_t ticket;                 // of the last channel request that the state takes in
  uint64_t answer;                 // to that request, if it is one that is answered
  uint64_t function_state;         // kFunctionState...
  uint32_t size_bytes;             // of the saved state, which follows; or kResetOrdered
  uint32_t checksum;               // CRC-32 of the header's other fields and the saved state
};
static_assert(sizeof(DurableHeader) == 16 && sizeof(SlotHeader) == 40);
static_assert(kOwedFailureOffset + sizeof(OwedFailure) <= kSlotsOffset);

// Instead of a saved state: the device was about to be reset. It is as after power-on, and who
// goes on from here zeroes the model's own memory first: a reset is never left half done.
inline constexpr uint32_t kResetOrdered = ~uint32_t{0};

constexpr size_t SlotBytes(uint32_t saved_state_bytes) {
  return (sizeof(SlotHeader) + saved_state_bytes + 63) / 64 * 64;
}
constexpr size_t DurableMemoryOffset(uint32_t saved_state_bytes) {
  return (kSlotsOffset + 2 * SlotBytes(saved_state_bytes) + kPageBytes - 1) / kPageBytes *
         kPageBytes;
}
constexpr size_t SizeBytes(uint32_t saved_state_bytes, uint64_t durable_memory_bytes) {
  return DurableMemoryOffset(saved_state_bytes) +
         (durable_memory_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace durable
}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_DURABLE_LAYOUT_H_
