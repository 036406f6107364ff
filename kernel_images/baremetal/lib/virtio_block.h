#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_BLOCK_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_BLOCK_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/virtio.h"

// Requests to a virtio block device (virtio 1.2, section 5.2).

namespace bulkhead::guest {

inline constexpr uint16_t kBlockType = 2;
inline constexpr uint64_t kFeatureFlush = uint64_t{1} << 9;
inline constexpr uint64_t kFeatureMultiQueue = uint64_t{1} << 12;
inline constexpr uint32_t kSectorBytes = 512;

inline constexpr uint32_t kRequestRead = 0;
inline constexpr uint32_t kRequestWrite = 1;
inline constexpr uint32_t kRequestFlush = 4;

// The last byte of each request, which the device writes; kNotYet is never written.
inline constexpr uint8_t kOk = 0;
inline constexpr uint8_t kIoError = 1;
inline constexpr uint8_t kNotYet = 0xaa;

// The first part of each request.
struct BlockHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(BlockHeader) == 16);

// Writes the chain of one request into `table`: header, data unless `bytes` is 0, result. `first`
// is the index of table[0] for the device. Returns the number of descriptors.
inline constexpr uint16_t kMaxRequestDescriptors = 3;
inline uint16_t WriteRequest(VirtqueueDescriptor* table, uint16_t first, const BlockHeader& header,
                             const void* data, uint32_t bytes, const uint8_t* result) {
  const uint16_t write = header.type == kRequestRead ? kDescriptorWrite : 0;
  uint16_t used = 0;
  const auto add = [&](const void* part, uint32_t size, uint16_t flags) {
    table[used] = {AddressOf(part), size, flags, static_cast<uint16_t>(first + used + 1)};
    ++used;
  };
  add(&header, sizeof(header), kDescriptorNext);
  if (bytes != 0) add(data, bytes, static_cast<uint16_t>(write | kDescriptorNext));
  add(result, 1, kDescriptorWrite);
  return used;
}

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_BLOCK_H_
