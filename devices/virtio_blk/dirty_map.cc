#include "devices/virtio_blk/dirty_map.h"

#include <algorithm>
#include <bit>

#include "devices/virtio_blk/block_layout.h"

namespace bulkhead::devices::virtio {

DirtyMap::DirtyMap(uint64_t size_bytes)
    : size_bytes_(size_bytes),
      region_bytes_(std::max(kMinRegionBytes, std::bit_ceil(size_bytes / kMaxRegions))),
      regions_(size_bytes / region_bytes_ + 1),
      begin_(regions_.size()) {
  Wrote(0, size_bytes);
}

void DirtyMap::Wrote(uint64_t offset, uint64_t length) {
  while (length != 0 && offset < size_bytes_) {
    const uint64_t part = std::min(length, region_bytes_ - offset % region_bytes_);
    const uint64_t region = offset / region_bytes_;
    uint32_t& sectors = regions_[region];
    begin_ = std::min(begin_, region);
    end_ = std::max(end_, region + 1);
    const uint64_t added =
        std::min<uint64_t>((part + kSectorSize - 1) / kSectorSize, UINT32_MAX - sectors);
    sectors += static_cast<uint32_t>(added);
    dirty_sectors_ += added;
    offset += part;
    length -= part;
  }
}

bool DirtyMap::Find(uint64_t offset, Region& region) const {
  const uint64_t first = (offset + region_bytes_ - 1) / region_bytes_;
  for (uint64_t i = std::max(first, begin_); i < end_; ++i) {
    if (regions_[i] == 0) continue;
    region = {.offset = i * region_bytes_, .length = region_bytes_, .dirty_sectors = regions_[i]};
    return true;
  }
  return false;
}

void DirtyMap::Synced(const Region& region) {
  uint32_t& sectors = regions_[region.offset / region_bytes_];
  // Another flush may have been there meanwhile.
  const uint32_t clean = std::min(region.dirty_sectors, sectors);
  sectors -= clean;
  dirty_sectors_ -= clean;
}

void DirtyMap::SyncBegins() {
  if (dirty_sectors_ == 0) return;
  std::fill(regions_.begin() + begin_, regions_.begin() + end_, 0);
  dirty_sectors_ = 0;
  begin_ = regions_.size();
  end_ = 0;
}

}  // namespace bulkhead::devices::virtio
