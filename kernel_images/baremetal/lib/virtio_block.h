#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_BLOCK_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_BLOCK_H_

#include <stdint.h>

// What a driver of a block device (virtio 1.2, section 5.2) needs to say and to know.

namespace bulkhead::guest {

inline constexpr uint16_t kBlockType = 2;
inline constexpr uint64_t kFeatureFlush = uint64_t{1} << 9;
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

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_BLOCK_H_
