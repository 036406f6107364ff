#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NET_STORM_FRAME_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NET_STORM_FRAME_H_

#include <stdint.h>

// The frames that net_storm and its test on the host exchange. Each side numbers its own.

namespace bulkhead::guest {

struct StormFrame {
  uint8_t to[6];
  uint8_t from[6];
  uint8_t ether_type[2];
  uint8_t reserved[2];
  uint32_t kind;
  uint32_t number;        // from 1
  uint32_t acknowledged;  // the highest number that this side has received
  uint32_t size;          // of the whole frame
};
static_assert(sizeof(StormFrame) == 32);

inline constexpr uint8_t kStormEtherType[2] = {0x88, 0xb5};  // IEEE 802: for local experiments
inline constexpr uint32_t kStormData = 1;
inline constexpr uint32_t kStormStop = 2;  // from the host: the guest ends
inline constexpr uint8_t kGuestAddress[6] = {0x52, 0x54, 0, 0, 0, 1};
inline constexpr uint8_t kHostAddress[6] = {0x52, 0x54, 0, 0, 0, 2};
// A side sends this many frames more than the other one has acknowledged.
inline constexpr uint32_t kStormWindow = 48;
inline constexpr uint32_t kMaxStormFrame = 1514;

constexpr uint32_t StormFrameSize(uint32_t number) {
  return 60 + number * 37 % (kMaxStormFrame - 60 + 1);
}
constexpr uint8_t StormByte(uint32_t number, uint32_t index) {
  return static_cast<uint8_t>(number * 31 + index);
}

// Fills a frame of StormFrameSize(number) bytes.
inline void FillStormFrame(uint8_t* bytes, uint32_t kind, uint32_t number, uint32_t acknowledged,
                           bool from_guest) {
  auto* const frame = reinterpret_cast<StormFrame*>(bytes);
  for (int i = 0; i < 6; ++i) {
    frame->to[i] = from_guest ? kHostAddress[i] : kGuestAddress[i];
    frame->from[i] = from_guest ? kGuestAddress[i] : kHostAddress[i];
  }
  frame->ether_type[0] = kStormEtherType[0];
  frame->ether_type[1] = kStormEtherType[1];
  frame->reserved[0] = frame->reserved[1] = 0;
  frame->kind = kind;
  frame->number = number;
  frame->acknowledged = acknowledged;
  frame->size = StormFrameSize(number);
  for (uint32_t i = sizeof(StormFrame); i < frame->size; ++i) bytes[i] = StormByte(number, i);
}

inline bool IsStormFrame(const uint8_t* bytes, uint32_t size, bool from_guest) {
  const auto* const frame = reinterpret_cast<const StormFrame*>(bytes);
  return size >= sizeof(StormFrame) && frame->ether_type[0] == kStormEtherType[0] &&
         frame->ether_type[1] == kStormEtherType[1] &&
         frame->from[5] == (from_guest ? kGuestAddress : kHostAddress)[5];
}
// Of such a frame.
inline bool IsWhole(const uint8_t* bytes, uint32_t size) {
  const auto* const frame = reinterpret_cast<const StormFrame*>(bytes);
  if (frame->size != size || size != StormFrameSize(frame->number)) return false;
  for (uint32_t i = sizeof(StormFrame); i < size; ++i) {
    if (bytes[i] != StormByte(frame->number, i)) return false;
  }
  return true;
}

// What one side sees of the other's numbers.
struct StormCount {
  uint64_t frames = 0;
  uint64_t lost = 0;
  uint64_t repeated = 0;
  uint32_t highest = 0;

  void Add(uint32_t number) {
    ++frames;
    if (number <= highest) {
      ++repeated;
      return;
    }
    lost += number - highest - 1;
    highest = number;
  }
};

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NET_STORM_FRAME_H_
