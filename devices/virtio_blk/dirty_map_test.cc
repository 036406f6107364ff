#include "devices/virtio_blk/dirty_map.h"

#include <stdint.h>

#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(DirtyMapTest, WhatAPredecessorWroteIsUnknownAndCountsAsDirty) {
  EXPECT_FALSE(DirtyMap(64 * kMiB).is_heavy());
  DirtyMap map(65 * kMiB);
  EXPECT_TRUE(map.is_heavy());
  uint64_t found = 0;
  DirtyMap::Region region;
  while (map.Find(region.offset + region.length, region)) ++found;
  EXPECT_EQ(found, 5u) << "regions of 16 MiB";
}

TEST(DirtyMapTest, RegionsAreFoundOnceUntilTheyAreWrittenAgain) {
  DirtyMap map(1024 * kMiB);
  map.SyncBegins();
  DirtyMap::Region region;
  EXPECT_FALSE(map.Find(0, region));
  map.Wrote(20 * kMiB - 512, 1024);
  map.Wrote(48 * kMiB - 512, 1024);  // across a boundary
  ASSERT_TRUE(map.Find(0, region));
  EXPECT_EQ(region.offset, 16 * kMiB);
  EXPECT_EQ(region.length, 16 * kMiB);
  EXPECT_EQ(region.dirty_sectors, 2u);
  map.Wrote(20 * kMiB, 512);
  map.Synced(region);
  ASSERT_TRUE(map.Find(0, region));
  EXPECT_EQ(region.offset, 16 * kMiB) << "written meanwhile";
  EXPECT_EQ(region.dirty_sectors, 1u);
  map.Synced(region);
  map.Synced(region);  // by another flush at a time
  ASSERT_TRUE(map.Find(0, region));
  EXPECT_EQ(region.offset, 32 * kMiB);
  EXPECT_EQ(region.dirty_sectors, 1u);
  ASSERT_TRUE(map.Find(region.offset + region.length, region));
  EXPECT_EQ(region.offset, 48 * kMiB);
  EXPECT_FALSE(map.Find(region.offset + region.length, region));
}

TEST(DirtyMapTest, ItIsHeavyByTheSumOfAllRegions) {
  DirtyMap map(uint64_t{1} << 40);
  map.SyncBegins();
  for (uint64_t i = 0; i < 64; ++i) map.Wrote(i << 34, kMiB);
  EXPECT_FALSE(map.is_heavy());
  map.Wrote(0, 512);
  EXPECT_TRUE(map.is_heavy());
  DirtyMap::Region region;
  ASSERT_TRUE(map.Find(0, region));
  map.Synced(region);
  EXPECT_FALSE(map.is_heavy());
  map.SyncBegins();
  EXPECT_FALSE(map.Find(0, region));
}

TEST(DirtyMapTest, AFileOfAnySizeHasABoundedMap) {
  for (const uint64_t size : {uint64_t{512}, uint64_t{1} << 40, (uint64_t{1} << 63) - 512}) {
    DirtyMap map(size);
    DirtyMap::Region region;
    uint64_t regions = 0;
    uint64_t covered = 0;
    while (map.Find(covered, region)) {
      covered = region.offset + region.length;
      ASSERT_LE(++regions, DirtyMap::kMaxRegions + 1);
    }
    EXPECT_GE(covered, size);
    map.Wrote(size - 512, 4096);  // beyond the end
    map.Wrote(size + 4096, 512);
    map.SyncBegins();
    EXPECT_FALSE(map.is_heavy());
  }
}

}  // namespace
}  // namespace bulkhead::devices::virtio
