#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_TEST_REQUEST_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_TEST_REQUEST_H_

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include <algorithm>
#include <vector>

#include "absl/types/span.h"
#include "devices/virtio/virtqueue.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/block_request.h"

namespace bulkhead::devices::virtio {

inline constexpr uint8_t kUntouched = 0xee;

// A request whose readable and writable parts are cut into buffers as the test says.
struct TestRequest {
  TestRequest(const BlockHeader& header, std::vector<uint8_t> data_out, size_t data_in_bytes)
      : readable(sizeof(header)), writable(data_in_bytes + 1, kUntouched) {
    memcpy(readable.data(), &header, sizeof(header));
    readable.insert(readable.end(), data_out.begin(), data_out.end());
  }

  // Cuts of 0 bytes: one buffer for all.
  DescriptorChain Chain(size_t cut = 0) {
    const auto add = [&](std::vector<uint8_t>& bytes) {
      const size_t step = cut == 0 ? bytes.size() : cut;
      for (size_t i = 0; i < bytes.size(); i += step) {
        buffers.push_back({&bytes[i], std::min(step, bytes.size() - i)});
      }
    };
    add(readable);
    const size_t readable_count = buffers.size();
    add(writable);
    const absl::Span<iovec> all = absl::MakeSpan(buffers);
    return {
        .head = 0, .readable = all.first(readable_count), .writable = all.subspan(readable_count)};
  }
  uint8_t status() const { return writable.back(); }

  std::vector<uint8_t> readable;
  std::vector<uint8_t> writable;
  std::vector<iovec> buffers;
};

inline std::vector<uint8_t> RangeBytes(const std::vector<BlockRange>& ranges) {
  std::vector<uint8_t> bytes(ranges.size() * sizeof(BlockRange));
  if (!ranges.empty()) memcpy(bytes.data(), ranges.data(), bytes.size());
  return bytes;
}

inline BlockContext Context() {
  return {.sectors = 100,
          .read_only = false,
          .id = "disk-1",
          .max_bytes = 32 * kSectorSize,
          .max_ranges = 3,
          .max_discard_sectors = 20,
          .max_write_zeroes_sectors = 10,
          .discard = true,
          .write_zeroes = true,
          .write_through = false};
}

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_TESTING_TEST_REQUEST_H_
