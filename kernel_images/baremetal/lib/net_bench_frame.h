#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NET_BENCH_FRAME_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NET_BENCH_FRAME_H_

#include <stdint.h>

// The frames that bench_net and integration/bench/net_peer exchange. The guest gives orders, and
// the peer follows them.

namespace bulkhead::guest {

// An order or its answer. Frames whose data nobody reads have another type: kBenchDataType, or
// that of IPv4.
struct BenchFrame {
  uint8_t to[6];
  uint8_t from[6];
  uint8_t ether_type[2];
  uint8_t reserved[2];
  uint32_t order;
  uint32_t number;   // of an order; of an acknowledgement: the frames received
  uint32_t bytes;    // of each frame of a flood
  uint32_t segment;  // bytes of a TCP segment in it; 0: it is not TCP
  uint32_t window;   // frames that are not acknowledged, at most
  uint32_t attempt;  // of an answer: how often it was sent before, since no order followed it
  uint64_t frames;  // in the answers to kBenchCount and kBenchStop
  uint8_t padding[16];
};
static_assert(sizeof(BenchFrame) == 64);

inline constexpr uint8_t kBenchOrderType[2] = {0x88, 0xb5};  // IEEE 802: for local experiments
inline constexpr uint8_t kBenchDataType[2] = {0x88, 0xb6};

inline constexpr uint32_t kBenchEcho = 1;   // the peer sends the same frame back
inline constexpr uint32_t kBenchCount = 2;  // and says how many frames the host got of the TAP
inline constexpr uint32_t kBenchFlood = 3;  // the peer sends frames until kBenchStop
inline constexpr uint32_t kBenchAcknowledge = 4;
inline constexpr uint32_t kBenchStop = 5;  // the peer says how many it has sent

inline constexpr uint32_t kBenchHeaders = 14 + 20 + 20;  // Ethernet, IPv4, TCP

// Nobody's addresses: the host's kernel drops the frame at once.
inline void FillEthernet(uint8_t* frame, const uint8_t (&type)[2], bool from_guest) {
  for (int i = 0; i < 12; ++i) frame[i] = 0;
  frame[0] = frame[6] = 0x52;
  frame[5] = from_guest ? 2 : 1;
  frame[11] = from_guest ? 1 : 2;
  frame[12] = type[0];
  frame[13] = type[1];
}

// Ethernet, IPv4 and TCP headers of a frame with so many bytes.
inline void FillTcpHeaders(uint8_t* frame, uint32_t frame_bytes, bool from_guest) {
  for (uint32_t i = 0; i < kBenchHeaders; ++i) frame[i] = 0;
  FillEthernet(frame, {0x08, 0x00}, from_guest);
  uint8_t* const ip = frame + 14;
  const uint32_t ip_bytes = frame_bytes - 14;
  ip[0] = 0x45;  // version 4, five words
  ip[2] = static_cast<uint8_t>(ip_bytes >> 8);
  ip[3] = static_cast<uint8_t>(ip_bytes);
  ip[8] = 64;  // time to live
  ip[9] = 6;   // TCP
  ip[12] = ip[16] = 10;
  ip[15] = from_guest ? 1 : 2;
  ip[19] = from_guest ? 2 : 1;
  ip[20 + 12] = 5 << 4;  // words of the TCP header
}

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_NET_BENCH_FRAME_H_
