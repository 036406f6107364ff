#ifndef BULKHEAD_PROTO_DURABLE_LAYOUT_H_
#define BULKHEAD_PROTO_DURABLE_LAYOUT_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>

// The durable state of a device: a memory file that outlives the device's processes. The vmm
// creates it, zeroed and sealed against shrinking and growing, and passes it to each process. The
// vmm reads only OwedFailure; the rest is for the successor of the process that wrote it, which
// trusts none of it.
//
//   0                    DurableHeader
//   kOwedFailureOffset   OwedFailure
//   kSlotsOffset         slot 0: SlotHeader, then the saved state
//   + SlotBytes(n)       slot 1
//   DurableMemoryOffset  the model's own memory (virtqueues in flight), page-aligned
//
// A save writes the older slot: sequence 0, contents, checksum, then the new sequence. The slot
// with the higher sequence is the state; a slot whose writer died during a save has sequence 0. All
// zeroes: no state; the device starts as after power-on. A wrong checksum with a sequence cannot
// come from a death, only from corruption: then the successor loads neither slot, because the other
// one lacks what the guest has seen since.

namespace bulkhead {

inline constexpr uint32_t kMaxSavedStateBytes = 256 * 1024;
inline constexpr uint64_t kMaxDurableMemoryBytes = 16 * 1024 * 1024;

namespace durable {

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kSlotsOffset = 64;

struct DurableHeader {
  uint64_t magic;  // kDurableMagic once a process has attached
  uint32_t version;
  uint32_t state_version;  // DeviceInfo.state_version of the writer
};
inline constexpr uint64_t kDurableMagic = 0x656c6261727564bb;  // "\xbbdurable"
inline constexpr uint32_t kDurableVersion = 1;

// Not 0: data could not be written back, and the guest has not seen that error yet. Outside the
// slots, because a reset of the device does not change it. If the state is discarded, the vmm
// passes it to the next process (writeback_failed in attach.proto).
struct OwedFailure {
  std::atomic<uint32_t> owed;
};
inline constexpr size_t kOwedFailureOffset = 32;

struct SlotHeader {
  std::atomic<uint64_t> sequence;  // of saves, from 1; 0: being written, or never was
  uint64_t ticket;                 // of the last channel request that the state includes
  uint64_t answer;                 // to that request, if it gets one
  uint64_t function_state;         // kFunctionState...
  uint32_t size_bytes;             // of the saved state, which follows; or kResetOrdered
  uint32_t checksum;               // CRC-32 of the header's other fields and the saved state
};
static_assert(sizeof(DurableHeader) == 16 && sizeof(SlotHeader) == 40);
static_assert(kOwedFailureOffset + sizeof(OwedFailure) <= kSlotsOffset);

// In place of a size: a reset had begun. The device is as after power-on, and the successor first
// zeroes the model's own memory, so that no reset stays half done.
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
