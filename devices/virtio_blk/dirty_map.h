#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_DIRTY_MAP_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_DIRTY_MAP_H_

#include <stdint.h>

#include <vector>

namespace bulkhead::devices::virtio {

// An estimate of how much of a file was written and may not be on the medium yet, by regions. With
// it a flush of gigabytes becomes many operations of one region each. A process cannot end in the
// middle of an fsync(2): its death, and its successor, would wait for all of it.
//
// It does not know earlier writes, so the whole file counts as dirty at first. Thread-compatible.
class DirtyMap {
 public:
  static constexpr uint64_t kMinRegionBytes = 16 << 20;
  static constexpr uint64_t kMaxRegions = 16384;
  // What one fsync may have to write.
  static constexpr uint64_t kMaxSyncBytes = 64 << 20;

  // Of a file of that size.
  explicit DirtyMap(uint64_t size_bytes);

  void Wrote(uint64_t offset, uint64_t length);

  // True: a flush should go by regions.
  bool is_heavy() const { return dirty_sectors_ * 512 > kMaxSyncBytes; }

  struct Region {
    uint64_t offset = 0;
    uint64_t length = 0;
    uint32_t dirty_sectors = 0;
  };
  // The first dirty region at `offset` or behind. False: there is none.
  bool Find(uint64_t offset, Region& region) const;
  // All that was dirty there when Find() gave `region` is on the medium.
  void Synced(const Region& region);
  // An fsync begins: it takes care of all that was written so far.
  void SyncBegins();

 private:
  const uint64_t size_bytes_;
  const uint64_t region_bytes_;
  std::vector<uint32_t> regions_;  // sectors written, at most UINT32_MAX
  uint64_t dirty_sectors_ = 0;     // their sum
  uint64_t begin_ = 0;             // of the regions that are not 0
  uint64_t end_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_DIRTY_MAP_H_
