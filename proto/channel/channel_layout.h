#ifndef BULKHEAD_PROTO_CHANNEL_CHANNEL_LAYOUT_H_
#define BULKHEAD_PROTO_CHANNEL_CHANNEL_LAYOUT_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>

// The shared memory of a channel, which the vmm and one device process read and write.
//
// Each of the two memory files has one writer. n = slots, w = waiters (0 to w - 1).
//
// REQUEST MEMORY: only the vmm writes it. Sealed: a device can map it only for reading.
//
//   offset            field            read by, and where it is checked
//   0x000             magic            device, once: ChannelServer::Create()
//   0x008             version          device, once: ChannelServer::Create()
//   0x00c             slots            device, once: ChannelServer::Create()
//   0x010             waiters          device, once: ChannelServer::Create()
//   0x014             tracing          device; any value is harmless (zero or not)
//   0x018             heartbeat        device; any value is harmless (it is sent back)
//   0x040             space_waiters    device; any value is harmless (zero or not)
//   0x080 + 64*i      waiter i:
//           +0          sleeping       device; any value is harmless (zero or not)
//   0x080 + 64*w + 32*k   slot k: the request whose ticket % n is k
//           +0          sequence       device; equal to the ticket it looks for, or not
//           +8          offset         device; the device host, against the region's size
//           +16         data           device; any value is valid
//           +24         operation      device: ChannelServer::TryPeek()
//           +25         size_bytes     device: ChannelServer::TryPeek()
//           +26         waiter         device: ChannelServer::TryPeek()
//           +28         region         device; the device host, against its regions
//           +29         flags          device: ChannelServer::TryPeek() (must be zero)
//
// RESPONSE MEMORY: only the device process writes it. The vmm trusts none of it and maps it
// read-only. It cannot shrink (sealed), so reading it cannot fault. Between two device processes
// the vmm writes head, sleeping, heartbeat and completion tickets: see
// ChannelClient::PrepareSuccessor().
//
//   0x000             generation       vmm, for reports only
//   0x008             heartbeat        vmm: ChannelClient::heartbeat()
//   0x010             heartbeat_time   vmm, for reports only
//   0x018             awaits_back_end  vmm: ChannelClient::process_awaits_back_end(); zero or not
//   0x040             head             vmm: ChannelClient::HeadMovedPast(); a successor:
//                                      ChannelServer::Create()
//   0x080             sleeping         vmm; any value is harmless (zero or not)
//   0x0c0             counters         vmm, for reports only
//   0x100 + 64*i      completion of waiter i:
//           +0          ticket         vmm: ChannelClient::LookForAnswer()
//           +8          data           vmm; masked to the size of the access
//           +16         status         vmm: ChannelClient::TakeAnswer()
//           +24         deferred       vmm: ChannelClient::WaitForAnswer(); a successor:
//                                      ChannelServer::Deferred()
//   0x100 + 64*w      trace            vmm: TraceReader::Read(); trace_ring.h. Takes
//                                      memory only from the first record to the end of a trace
//
// Tickets number the requests from 1, in the one order in which the device sees them; 64 bits never
// wrap. `head` is the ticket of the last request that the device has fully processed, at first 0.
// The vmm takes a ticket only while `ticket - head <= slots`, so a slot is free when it is written.
// A successor continues from the contents that a dead process has left.

namespace bulkhead::channel {

inline constexpr uint64_t kRequestMagic = 0x74736575716572bb;  // "\xbbrequest"
inline constexpr uint32_t kLayoutVersion = 4;

inline constexpr uint32_t kMinSlots = 4;
inline constexpr uint32_t kMaxSlots = 1 << 16;
inline constexpr uint32_t kMaxWaiters = 1 << 10;
inline constexpr size_t kCacheLineBytes = 64;

enum class Operation : uint8_t {
  kRead = 1,
  kPostedWrite = 2,  // not answered; all others are
  kWrite = 3,        // answered once it has taken effect
  // Answered once the device obeys, its DMA in flight included, or half a second later: see
  // proto/contract.h for the data.
  kSetFunctionState = 4,
  kReset = 5,  // answered once the device is in its state after power-on
};

enum class CompletionStatus : uint64_t {
  kDone = 0,
  kRefused = 1,  // the device found the request malformed and did nothing
};

constexpr bool IsCompletionStatus(uint64_t status) {
  return status <= static_cast<uint64_t>(CompletionStatus::kRefused);
}

constexpr bool IsAccessSize(uint8_t size_bytes) {
  return size_bytes == 1 || size_bytes == 2 || size_bytes == 4 || size_bytes == 8;
}

// A 64-bit word that another field publishes: written before that field is, read after.
class PublishedWord {
 public:
#if defined(BULKHEAD_CHANNEL_PLAIN_WORDS)
  // For stress_test, where both ends share one mapping: plain memory, so that ThreadSanitizer
  // checks that the publishing field orders every access.
  uint64_t Read() const { return value_; }
  void Write(uint64_t value) { value_ = value; }

 private:
  uint64_t value_;
#else
  // relaxed: the publishing field orders it. Atomic, because a hostile other end writes at any
  // time; each word is then read exactly once.
  uint64_t Read() const { return value_.load(std::memory_order_relaxed); }
  void Write(uint64_t value) { value_.store(value, std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_;
#endif
};

struct RequestHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t slots;
  uint32_t waiters;
  std::atomic<uint32_t> tracing;    // 1: the device process writes its trace
  std::atomic<uint64_t> heartbeat;  // how many heartbeats the vmm has asked for
  // How many waiters have announced that they sleep until a slot is free.
  alignas(kCacheLineBytes) std::atomic<uint32_t> space_waiters;
};

struct alignas(kCacheLineBytes) WaiterFlags {
  std::atomic<uint32_t> sleeping;  // 1: only its completion event wakes this waiter
};

struct alignas(32) RequestSlot {
  std::atomic<uint64_t> sequence;  // the ticket of the request in this slot; publishes the rest
  PublishedWord offset;
  PublishedWord data;
  PublishedWord shape;  // operation to flags, see RequestShape
};

// The last word of a slot, field by field.
struct RequestShape {
  uint8_t operation = 0;
  uint8_t size_bytes = 0;
  uint16_t waiter = 0;
  uint8_t region = 0;
  uint32_t flags = 0;  // 24 bits, none defined yet

  static RequestShape Unpack(uint64_t word) {
    return {.operation = static_cast<uint8_t>(word),
            .size_bytes = static_cast<uint8_t>(word >> 8),
            .waiter = static_cast<uint16_t>(word >> 16),
            .region = static_cast<uint8_t>(word >> 32),
            .flags = static_cast<uint32_t>(word >> 40)};
  }
  uint64_t Pack() const {
    return uint64_t{operation} | uint64_t{size_bytes} << 8 | uint64_t{waiter} << 16 |
           uint64_t{region} << 32 | uint64_t{flags} << 40;
  }
};

struct ResponseHeader {
  std::atomic<uint64_t> generation;  // of the process that attached last
  // The heartbeat that was answered last, times 2; plus 1 if the process said that it is in a long
  // call: see ChannelServer::AnswerHeartbeat().
  std::atomic<uint64_t> heartbeat;
  std::atomic<uint64_t> heartbeat_time;   // when: CLOCK_MONOTONIC, in nanoseconds
  std::atomic<uint64_t> awaits_back_end;  // 1: see ChannelServer::SetAwaitsBackEnd()
  alignas(kCacheLineBytes) std::atomic<uint64_t> head;
  alignas(kCacheLineBytes) std::atomic<uint32_t> sleeping;  // 1: only the request event wakes it
  alignas(kCacheLineBytes) std::atomic<uint64_t> sleeps;
  std::atomic<uint64_t> polls;      // times that it polled for the next request
  std::atomic<uint64_t> poll_hits;  // of them, how many found one
  std::atomic<uint64_t> refused;    // malformed requests
};

struct alignas(kCacheLineBytes) CompletionSlot {
  std::atomic<uint64_t> ticket;  // of the request that is answered; publishes the rest
  PublishedWord data;
  PublishedWord status;  // CompletionStatus
  // The ticket of the last request that the head has passed before it was answered: this process or
  // a successor answers it later. `ticket` is at least this once it is answered.
  std::atomic<uint64_t> deferred;
};

// The table above.
static_assert(sizeof(std::atomic<uint64_t>) == 8 && std::atomic<uint64_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free);
static_assert(sizeof(RequestHeader) == 0x80 && offsetof(RequestHeader, space_waiters) == 0x40);
static_assert(offsetof(RequestHeader, version) == 0x8 && offsetof(RequestHeader, slots) == 0xc);
static_assert(offsetof(RequestHeader, waiters) == 0x10 && sizeof(WaiterFlags) == 64);
static_assert(offsetof(RequestHeader, tracing) == 0x14);
static_assert(offsetof(RequestHeader, heartbeat) == 0x18);
static_assert(sizeof(RequestSlot) == 32 && offsetof(RequestSlot, shape) == 24);
static_assert(offsetof(RequestSlot, offset) == 8 && offsetof(RequestSlot, data) == 16);
static_assert(sizeof(ResponseHeader) == 0x100 && offsetof(ResponseHeader, head) == 0x40);
static_assert(offsetof(ResponseHeader, heartbeat) == 0x8 &&
              offsetof(ResponseHeader, heartbeat_time) == 0x10 &&
              offsetof(ResponseHeader, awaits_back_end) == 0x18);
static_assert(offsetof(ResponseHeader, sleeping) == 0x80);
static_assert(offsetof(ResponseHeader, sleeps) == 0xc0 && sizeof(CompletionSlot) == 64);
static_assert(offsetof(CompletionSlot, data) == 8 && offsetof(CompletionSlot, status) == 16);
static_assert(offsetof(CompletionSlot, deferred) == 24);

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_LAYOUT_H_
