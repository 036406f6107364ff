#ifndef BULKHEAD_DEVICES_VHOST_USER_PROTOCOL_H_
#define BULKHEAD_DEVICES_VHOST_USER_PROTOCOL_H_

#include <stddef.h>
#include <stdint.h>

#include <bit>

// Numbers and layouts of the vhost-user protocol: QEMU's docs/interop/vhost-user.rst. All fields
// are in the byte order of the machine.

namespace bulkhead::devices::vhost_user {

static_assert(std::endian::native == std::endian::little);

enum class MessageType : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kSetMemTable = 5,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kGetConfig = 24,
  kSetInflightFd = 32,
  kResetDevice = 34,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kSetStatus = 39,
};

// A message is this, then `size` bytes.
struct MessageHeader {
  uint32_t type;
  uint32_t flags;
  uint32_t size;
};
static_assert(sizeof(MessageHeader) == 12);

inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kIsReply = 4;
inline constexpr uint32_t kNeedReply = 8;

// A feature bit that stands beside those of virtio: there are protocol features.
inline constexpr uint64_t kFeatureProtocolFeatures = uint64_t{1} << 30;

enum ProtocolFeature : uint64_t {
  kProtocolMultiQueue = uint64_t{1} << 0,
  kProtocolReplyAck = uint64_t{1} << 3,
  kProtocolConfig = uint64_t{1} << 9,
  kProtocolInFlight = uint64_t{1} << 12,
  kProtocolResetDevice = uint64_t{1} << 13,
  kProtocolMemorySlots = uint64_t{1} << 15,
  kProtocolStatus = uint64_t{1} << 16,
};
inline constexpr uint64_t kUsedProtocolFeatures =
    kProtocolMultiQueue | kProtocolReplyAck | kProtocolConfig | kProtocolInFlight |
    kProtocolResetDevice | kProtocolMemorySlots | kProtocolStatus;

struct MemoryRegion {
  uint64_t guest_address;
  uint64_t size_bytes;
  // What ring addresses count in. The back end only compares it with those.
  uint64_t user_address;
  uint64_t offset_in_file;
};
static_assert(sizeof(MemoryRegion) == 32);
inline constexpr size_t kMaxTableRegions = 8;

struct MemoryTable {
  uint32_t count;
  uint32_t padding;
  MemoryRegion regions[kMaxTableRegions];
};

struct SingleRegion {
  uint64_t padding;
  MemoryRegion region;
};

struct VringState {
  uint32_t index;
  uint32_t value;
};

struct VringAddress {
  uint32_t index;
  uint32_t flags;
  uint64_t descriptors;
  uint64_t used;
  uint64_t available;
  uint64_t log;
};
static_assert(sizeof(VringAddress) == 40);

struct ConfigHeader {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};
inline constexpr size_t kMaxConfigBytes = 256;

struct InFlightArea {
  uint64_t size_bytes;
  uint64_t offset_in_file;
  uint16_t queues;
  uint16_t queue_size;
  uint32_t padding;
};
static_assert(sizeof(InFlightArea) == 24);

// What a queue of `queue_size` takes of that area: the recommended layout for split rings. Zeroes
// are a valid beginning.
constexpr size_t InFlightBytes(uint16_t queue_size) {
  return (16 + size_t{queue_size} * 16 + 63) / 64 * 64;
}

// Largest reply.
inline constexpr size_t kMaxReplyBytes = sizeof(ConfigHeader) + kMaxConfigBytes;

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_PROTOCOL_H_
