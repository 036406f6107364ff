#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_LAYOUT_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_LAYOUT_H_

#include <stddef.h>
#include <stdint.h>

// Numbers and memory layouts of the block device: virtio 1.2, section 5.2.

namespace bulkhead::devices::virtio {

inline constexpr uint64_t kSectorSize = 512;  // the unit of all positions, whatever blk_size is

inline constexpr uint64_t kBlockSizeMax = uint64_t{1} << 1;
inline constexpr uint64_t kBlockSegMax = uint64_t{1} << 2;
inline constexpr uint64_t kBlockReadOnly = uint64_t{1} << 5;
inline constexpr uint64_t kBlockBlkSize = uint64_t{1} << 6;
inline constexpr uint64_t kBlockFlush = uint64_t{1} << 9;
inline constexpr uint64_t kBlockTopology = uint64_t{1} << 10;
inline constexpr uint64_t kBlockConfigWce = uint64_t{1} << 11;
inline constexpr uint64_t kBlockMultiQueue = uint64_t{1} << 12;
inline constexpr uint64_t kBlockDiscard = uint64_t{1} << 13;
inline constexpr uint64_t kBlockWriteZeroes = uint64_t{1} << 14;

// Device configuration, section 5.2.4.
struct BlockConfig {
  uint64_t capacity;  // sectors
  uint32_t size_max;
  uint32_t seg_max;
  uint32_t geometry;
  uint32_t blk_size;
  uint8_t physical_block_exp;
  uint8_t alignment_offset;
  uint16_t min_io_size;
  uint32_t opt_io_size;
  uint8_t writeback;
  uint8_t unused0;
  uint16_t num_queues;
  uint32_t max_discard_sectors;
  uint32_t max_discard_seg;
  uint32_t discard_sector_alignment;
  uint32_t max_write_zeroes_sectors;
  uint32_t max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  uint8_t unused1[3];
  uint32_t unused2;  // secure erase is not offered
};
static_assert(offsetof(BlockConfig, writeback) == 32);
static_assert(offsetof(BlockConfig, max_discard_sectors) == 36);
static_assert(offsetof(BlockConfig, write_zeroes_may_unmap) == 56);
inline constexpr uint32_t kBlockConfigSize = 60;

// Requests, section 5.2.6: a header, data, and one status byte at the very end.
struct BlockHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(BlockHeader) == 16);

inline constexpr uint32_t kBlockIn = 0;
inline constexpr uint32_t kBlockOut = 1;
inline constexpr uint32_t kBlockFlushCommand = 4;
inline constexpr uint32_t kBlockGetId = 8;
inline constexpr uint32_t kBlockDiscardCommand = 11;
inline constexpr uint32_t kBlockWriteZeroesCommand = 13;

inline constexpr size_t kBlockIdSize = 20;

// Data of discard and write-zeroes commands: an array of these.
struct BlockRange {
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
static_assert(sizeof(BlockRange) == 16);
inline constexpr uint32_t kBlockRangeUnmap = 1;

inline constexpr uint8_t kBlockStatusOk = 0;
inline constexpr uint8_t kBlockStatusIoError = 1;
inline constexpr uint8_t kBlockStatusUnsupported = 2;

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_BLOCK_LAYOUT_H_
