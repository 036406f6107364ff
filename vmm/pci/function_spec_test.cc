#include "vmm/pci/function_spec.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/device/pci_registers.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;

DeviceDescription::PciFunction Disk() {
  DeviceDescription::PciFunction function;
  function.bars = {{.index = 0, .size_bytes = 0x4000, .is_64bit = true}};
  function.msix_vectors = 3;
  function.capabilities = {{.id = 9, .body = std::vector<uint8_t>(14)},
                           {.id = 9, .body = std::vector<uint8_t>(17), .forwarded = true}};
  return function;
}

TEST(LayOutTest, CapabilitiesArePackedAtDwordsAndMsixTakesTheLowestFreeBar) {
  const FunctionLayout layout = LayOut(Disk());
  EXPECT_EQ(layout.msix_capability, 0x40);
  EXPECT_THAT(layout.device_capabilities, ElementsAre(0x4c, 0x5c));
  EXPECT_EQ(layout.advanced_features, 0x70);
  EXPECT_EQ(layout.msix_bar, 2);  // BAR 0 is a 64-bit one and takes 1 too
}

TEST(LayOutTest, WithoutMsixTheDevicesCapabilitiesAreFirst) {
  DeviceDescription::PciFunction function = Disk();
  function.msix_vectors = 0;
  const FunctionLayout layout = LayOut(function);
  EXPECT_EQ(layout.msix_capability, 0);
  EXPECT_FALSE(layout.msix_bar.has_value());
  EXPECT_THAT(layout.device_capabilities, ElementsAre(0x40, 0x50));
}

TEST(LayOutTest, TheLargestCapabilityThatADescriptionMayHaveFits) {
  DeviceDescription::PciFunction function = Disk();
  function.capabilities = {{.id = 9, .body = std::vector<uint8_t>(170)}};
  EXPECT_EQ(LayOut(function).advanced_features + pci::CapabilitySpace(pci::kAdvancedFeaturesBytes),
            size_t{pci::kConventionalConfigBytes});
}

TEST(LayOutTest, MsixTakesTheLastBarIfItIsTheOnlyFreeOne) {
  DeviceDescription::PciFunction function = Disk();
  function.bars = {{.index = 0, .size_bytes = 0x4000, .is_64bit = true},
                   {.index = 2, .size_bytes = 4096, .is_64bit = true},
                   {.index = 4, .size_bytes = 4096}};
  EXPECT_EQ(LayOut(function).msix_bar, 5);
}

}  // namespace
}  // namespace bulkhead::vmm
