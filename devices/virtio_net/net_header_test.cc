#include "devices/virtio_net/net_header.h"

#include "devices/virtio_net/net_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kAll = kNetChecksum | kNetHostTso4 | kNetHostTso6;
constexpr uint64_t kFrame = 3000;

// Of a segment of TCP over IPv4, as Linux makes it.
NetHeader Tcp4() {
  return {.flags = kNeedsChecksum,
          .segmentation = kSegmentTcp4,
          .header_length = 54,
          .segment_size = 1448,
          .checksum_start = 34,
          .checksum_offset = 16,
          .buffers = 0};
}
NetHeader Checksum() {
  NetHeader header = {};
  header.flags = kNeedsChecksum;
  header.checksum_start = 34;
  header.checksum_offset = 6;
  return header;
}

TEST(NetHeaderTest, WhatDriversSendPasses) {
  EXPECT_EQ(CheckHeader({}, 14, 0), HeaderFault::kNone);
  EXPECT_EQ(CheckHeader({}, kMaxFrame, 0), HeaderFault::kNone);
  EXPECT_EQ(CheckHeader(Checksum(), 60, kAll), HeaderFault::kNone);
  EXPECT_EQ(CheckHeader(Tcp4(), kFrame, kAll), HeaderFault::kNone);
  NetHeader tcp6 = Tcp4();
  tcp6.segmentation = kSegmentTcp6;
  EXPECT_EQ(CheckHeader(tcp6, kFrame, kAll), HeaderFault::kNone);
}

TEST(NetHeaderTest, FramesTooShortOrTooLongAreFaults) {
  EXPECT_EQ(CheckHeader({}, 0, kAll), HeaderFault::kLength);
  EXPECT_EQ(CheckHeader({}, 13, kAll), HeaderFault::kLength);
  EXPECT_EQ(CheckHeader({}, kMaxFrame + 1, kAll), HeaderFault::kLength);
}

TEST(NetHeaderTest, WhatWasNotNegotiatedIsAFault) {
  EXPECT_EQ(CheckHeader(Checksum(), kFrame, 0), HeaderFault::kFeature);
  EXPECT_EQ(CheckHeader(Tcp4(), kFrame, kNetChecksum | kNetHostTso6), HeaderFault::kFeature);
  for (int type = 0; type < 256; ++type) {
    NetHeader header = Tcp4();
    header.segmentation = static_cast<uint8_t>(type);
    const bool known = type == kSegmentNone || type == kSegmentTcp4 || type == kSegmentTcp6;
    EXPECT_EQ(CheckHeader(header, kFrame, kAll), known ? HeaderFault::kNone : HeaderFault::kFeature)
        << type;
  }
}

TEST(NetHeaderTest, AHeaderLengthBeyondTheFrameIsAFault) {
  NetHeader header = Tcp4();
  header.header_length = 100;
  EXPECT_EQ(CheckHeader(header, 100, kAll), HeaderFault::kNone);
  EXPECT_EQ(CheckHeader(header, 99, kAll), HeaderFault::kHeaderLength);
  header = {};
  header.header_length = 61;
  EXPECT_EQ(CheckHeader(header, 60, kAll), HeaderFault::kHeaderLength);
}

TEST(NetHeaderTest, AChecksumOutsideOfTheFrameIsAFault) {
  NetHeader header = Checksum();
  EXPECT_EQ(CheckHeader(header, 42, kAll), HeaderFault::kNone);
  EXPECT_EQ(CheckHeader(header, 41, kAll), HeaderFault::kChecksum);
  header.checksum_offset = 0xffff;  // the sum does not wrap
  header.checksum_start = 0xffff;
  EXPECT_EQ(CheckHeader(header, kFrame, kAll), HeaderFault::kChecksum);
  header.checksum_start = 13;
  header.checksum_offset = 6;
  EXPECT_EQ(CheckHeader(header, kFrame, kAll), HeaderFault::kChecksum);
}

TEST(NetHeaderTest, SegmentsNeedASizeAChecksumAndATcpHeader) {
  NetHeader header = Tcp4();
  header.segment_size = 0;
  EXPECT_EQ(CheckHeader(header, kFrame, kAll), HeaderFault::kSegment);
  header = Tcp4();
  header.flags = 0;
  EXPECT_EQ(CheckHeader(header, kFrame, kAll), HeaderFault::kSegment);
  header = Tcp4();
  header.checksum_offset = 6;
  EXPECT_EQ(CheckHeader(header, kFrame, kAll), HeaderFault::kSegment);
  header = Tcp4();
  header.checksum_start = kFrame - 19;
  EXPECT_EQ(CheckHeader(header, kFrame, kAll), HeaderFault::kSegment);
}

TEST(NetHeaderTest, TheHostGetsNothingThatTheFlagsDoNotAskFor) {
  NetHeader header = Tcp4();
  header.flags = 0xfe;
  header.segmentation = kSegmentNone;
  header.buffers = 7;
  const NetHeader clean = HeaderForHost(header);
  EXPECT_EQ(clean.flags, 0);
  EXPECT_EQ(clean.checksum_start, 0);
  EXPECT_EQ(clean.checksum_offset, 0);
  EXPECT_EQ(clean.segment_size, 0);
  EXPECT_EQ(clean.header_length, 0);
  EXPECT_EQ(clean.buffers, 0);
  EXPECT_EQ(HeaderForHost(Tcp4()).segment_size, 1448);
  EXPECT_EQ(HeaderForHost(Tcp4()).checksum_start, 34);
}

TEST(NetHeaderTest, TheGuestGetsOnlyWhatItHasAskedFor) {
  EXPECT_TRUE(GuestAccepts({}, 0));
  EXPECT_FALSE(GuestAccepts(Checksum(), 0));
  EXPECT_TRUE(GuestAccepts(Checksum(), kNetGuestChecksum));
  EXPECT_FALSE(GuestAccepts(Tcp4(), kNetGuestChecksum | kNetGuestTso6));
  EXPECT_TRUE(GuestAccepts(Tcp4(), kNetGuestChecksum | kNetGuestTso4));
}

}  // namespace
}  // namespace bulkhead::devices::virtio
