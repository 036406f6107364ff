#include "devices/host/region_table.h"

#include <string>

#include "gtest/gtest.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {
namespace {

v1::DeviceInfo PciDevice() {
  v1::DeviceInfo info;
  v1::Bar& bar = *info.mutable_pci()->add_bars();
  bar.set_index(2);
  bar.set_size_bytes(4096);
  info.mutable_pci()->add_capabilities()->set_body(std::string(10, 'a'));
  v1::Capability& forwarded = *info.mutable_pci()->add_capabilities();
  forwarded.set_body(std::string(6, 'b'));
  forwarded.set_forwarded(true);
  return info;
}

TEST(RegionTableTest, AnAccessMustLieWithinItsBar) {
  const RegionTable regions(PciDevice());
  EXPECT_TRUE(regions.Contains(2, 0, 8));
  EXPECT_TRUE(regions.Contains(2, 4088, 8));
  EXPECT_TRUE(regions.Contains(2, 4095, 1));
  EXPECT_FALSE(regions.Contains(2, 4089, 8));
  EXPECT_FALSE(regions.Contains(2, 4096, 1));
  EXPECT_FALSE(regions.Contains(2, ~uint64_t{0}, 1));
  EXPECT_FALSE(regions.Contains(2, ~uint64_t{0} - 3, 8));
}

TEST(RegionTableTest, RegionsThatDoNotExistContainNothing) {
  const RegionTable regions(PciDevice());
  for (int region : {0, 1, 3, 5, 15, 18, 31, 32, 255}) {
    EXPECT_FALSE(regions.Contains(static_cast<uint8_t>(region), 0, 1)) << region;
  }
}

TEST(RegionTableTest, OnlyForwardedCapabilitiesAreRegions) {
  const RegionTable regions(PciDevice());
  EXPECT_FALSE(regions.Contains(kCapabilityRegionBase, 0, 1));
  EXPECT_TRUE(regions.Contains(kCapabilityRegionBase + 1, 4, 2));
  EXPECT_FALSE(regions.Contains(kCapabilityRegionBase + 1, 4, 4));
}

TEST(RegionTableTest, OddSizesAreRefused) {
  const RegionTable regions(PciDevice());
  for (int size : {0, 3, 5, 6, 7, 9, 16, 255}) {
    EXPECT_FALSE(regions.Contains(2, 0, static_cast<uint8_t>(size))) << size;
  }
}

TEST(RegionTableTest, PortRangesAreTheRegionsOfAPlatformDevice) {
  v1::DeviceInfo info;
  info.mutable_platform()->add_port_ranges()->set_size(8);
  info.mutable_platform()->add_port_ranges()->set_size(1);
  const RegionTable regions(info);
  EXPECT_TRUE(regions.Contains(0, 7, 1));
  EXPECT_FALSE(regions.Contains(0, 7, 2));
  EXPECT_TRUE(regions.Contains(1, 0, 1));
  EXPECT_FALSE(regions.Contains(1, 0, 2));
  EXPECT_FALSE(regions.Contains(2, 0, 1));
}

}  // namespace
}  // namespace bulkhead::devices
