#ifndef BULKHEAD_DEVICES_VIRTIO_NET_NET_LAYOUT_H_
#define BULKHEAD_DEVICES_VIRTIO_NET_NET_LAYOUT_H_

#include <stdint.h>

#include "base/mac_address.h"

// Numbers and memory layouts of the network device (virtio 1.2, section 5.1). All fields are
// little-endian.

namespace bulkhead::devices::virtio {

// --- Feature bits, section 5.1.3 ---------------------------------------------------------------
inline constexpr uint64_t kNetChecksum = uint64_t{1} << 0;
inline constexpr uint64_t kNetGuestChecksum = uint64_t{1} << 1;
inline constexpr uint64_t kNetControlGuestOffloads = uint64_t{1} << 2;
inline constexpr uint64_t kNetMtu = uint64_t{1} << 3;
inline constexpr uint64_t kNetMac = uint64_t{1} << 5;
inline constexpr uint64_t kNetGuestTso4 = uint64_t{1} << 7;
inline constexpr uint64_t kNetGuestTso6 = uint64_t{1} << 8;
inline constexpr uint64_t kNetHostTso4 = uint64_t{1} << 11;
inline constexpr uint64_t kNetHostTso6 = uint64_t{1} << 12;
inline constexpr uint64_t kNetMergeableBuffers = uint64_t{1} << 15;
inline constexpr uint64_t kNetStatus = uint64_t{1} << 16;
inline constexpr uint64_t kNetControlQueue = uint64_t{1} << 17;
inline constexpr uint64_t kNetControlRx = uint64_t{1} << 18;
inline constexpr uint64_t kNetControlVlan = uint64_t{1} << 19;
inline constexpr uint64_t kNetGuestAnnounce = uint64_t{1} << 21;
inline constexpr uint64_t kNetMultiQueue = uint64_t{1} << 22;
inline constexpr uint64_t kNetControlMac = uint64_t{1} << 23;

// --- Configuration, section 5.1.4 --------------------------------------------------------------
struct NetConfig {
  MacAddress mac;
  uint16_t status;
  uint16_t max_pairs;
  uint16_t mtu;
};
static_assert(sizeof(NetConfig) == 12);

inline constexpr uint16_t kNetLinkUp = 1;
inline constexpr uint16_t kNetAnnounce = 2;

// --- In front of each frame, section 5.1.6 -----------------------------------------------------
struct NetHeader {
  uint8_t flags;
  uint8_t segmentation;  // gso_type
  uint16_t header_length;
  uint16_t segment_size;  // gso_size
  uint16_t checksum_start;
  uint16_t checksum_offset;
  uint16_t buffers;  // that the frame lies in; of received frames
};
static_assert(sizeof(NetHeader) == 12);

inline constexpr uint8_t kNeedsChecksum = 1;  // flags
inline constexpr uint8_t kSegmentNone = 0;
inline constexpr uint8_t kSegmentTcp4 = 1;
inline constexpr uint8_t kSegmentTcp6 = 4;

// --- Control queue, section 5.1.6.5 ------------------------------------------------------------
inline constexpr uint8_t kControlOk = 0;
inline constexpr uint8_t kControlError = 1;

inline constexpr uint8_t kControlRx = 0;
inline constexpr uint8_t kRxPromiscuous = 0;
inline constexpr uint8_t kRxAllMulticast = 1;
inline constexpr uint8_t kControlMac = 1;
inline constexpr uint8_t kMacTableSet = 0;
inline constexpr uint8_t kMacAddressSet = 1;
inline constexpr uint8_t kControlVlan = 2;
inline constexpr uint8_t kVlanAdd = 0;
inline constexpr uint8_t kVlanDelete = 1;
inline constexpr uint8_t kControlAnnounce = 3;
inline constexpr uint8_t kAnnounceAcknowledge = 0;
inline constexpr uint8_t kControlMultiQueue = 4;
inline constexpr uint8_t kPairsSet = 0;
inline constexpr uint8_t kControlOffloads = 5;
inline constexpr uint8_t kOffloadsSet = 0;

// --- Ethernet ----------------------------------------------------------------------------------
inline constexpr uint32_t kEthernetHeader = 14;
inline constexpr uint32_t kVlanTag = 4;
// The longest frame of either side: a segment of TCP over IPv6 before it is cut, with a tag.
inline constexpr uint32_t kMaxFrame = kEthernetHeader + kVlanTag + 40 + 65535;
inline constexpr uint16_t kEtherTypeVlan = 0x8100;
inline constexpr uint16_t kVlanIds = 4096;

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_NET_NET_LAYOUT_H_
