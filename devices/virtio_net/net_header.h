#ifndef BULKHEAD_DEVICES_VIRTIO_NET_NET_HEADER_H_
#define BULKHEAD_DEVICES_VIRTIO_NET_NET_HEADER_H_

#include <stdint.h>

#include "devices/virtio_net/net_layout.h"

namespace bulkhead::devices::virtio {

// What is wrong with a frame that the driver wants to send.
enum class HeaderFault {
  kNone,
  kLength,        // the frame is shorter than its Ethernet header, or longer than any
  kFeature,       // it asks for something that was not negotiated
  kHeaderLength,  // the headers end behind the frame
  kChecksum,      // the checksum lies outside of the frame
  kSegment,       // segments of no bytes, without a checksum, or without a TCP header
};
inline constexpr int kHeaderFaults = 6;

// Checks a copy of the driver's header (virtio 1.2, section 5.1.6.2), in front of a frame of
// `frame_bytes`. Only what passes may reach the host's kernel.
HeaderFault CheckHeader(const NetHeader& header, uint64_t frame_bytes, uint64_t features);

// A header that has passed, without what its flags do not ask for.
NetHeader HeaderForHost(const NetHeader& header);

// The driver may get a frame with this header: it has asked for such ones. `offloads` are the
// kNetGuest... bits.
bool GuestAccepts(const NetHeader& header, uint64_t offloads);

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_NET_NET_HEADER_H_
