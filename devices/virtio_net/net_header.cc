#include "devices/virtio_net/net_header.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kChecksumBytes = 2;
constexpr uint32_t kTcpHeader = 20;
constexpr uint16_t kTcpChecksumOffset = 16;

// The feature by which a side may be given such segments; 0: there is none.
uint64_t SegmentFeature(uint8_t segmentation, uint64_t tcp4, uint64_t tcp6) {
  return segmentation == kSegmentTcp4 ? tcp4 : segmentation == kSegmentTcp6 ? tcp6 : 0;
}

}  // namespace

HeaderFault CheckHeader(const NetHeader& header, uint64_t frame_bytes, uint64_t features) {
  if (frame_bytes < kEthernetHeader || frame_bytes > kMaxFrame) return HeaderFault::kLength;
  if (header.header_length > frame_bytes) return HeaderFault::kHeaderLength;
  const bool has_checksum = (header.flags & kNeedsChecksum) != 0;
  if (has_checksum) {
    if ((features & kNetChecksum) == 0) return HeaderFault::kFeature;
    const uint32_t end = uint32_t{header.checksum_start} + header.checksum_offset + kChecksumBytes;
    if (header.checksum_start < kEthernetHeader || end > frame_bytes) return HeaderFault::kChecksum;
  }
  if (header.segmentation == kSegmentNone) return HeaderFault::kNone;
  const uint64_t feature = SegmentFeature(header.segmentation, kNetHostTso4, kNetHostTso6);
  if ((features & feature) == 0) return HeaderFault::kFeature;
  const bool has_tcp_header = has_checksum && header.checksum_offset == kTcpChecksumOffset &&
                              header.checksum_start + kTcpHeader <= frame_bytes;
  if (header.segment_size == 0 || !has_tcp_header) return HeaderFault::kSegment;
  return HeaderFault::kNone;
}

NetHeader HeaderForHost(const NetHeader& header) {
  NetHeader clean = {};
  if ((header.flags & kNeedsChecksum) != 0) {
    clean.flags = kNeedsChecksum;
    clean.checksum_start = header.checksum_start;
    clean.checksum_offset = header.checksum_offset;
  }
  if (header.segmentation != kSegmentNone) {
    clean.segmentation = header.segmentation;
    clean.segment_size = header.segment_size;
    clean.header_length = header.header_length;
  }
  return clean;
}

bool GuestAccepts(const NetHeader& header, uint64_t offloads) {
  if ((header.flags & kNeedsChecksum) != 0 && (offloads & kNetGuestChecksum) == 0) return false;
  if (header.segmentation == kSegmentNone) return true;
  return (offloads & SegmentFeature(header.segmentation, kNetGuestTso4, kNetGuestTso6)) != 0;
}

}  // namespace bulkhead::devices::virtio
