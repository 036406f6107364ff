#include "vmm/hardware/device_places.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

DeviceDescription Uart(uint16_t base, uint8_t irq) {
  DeviceDescription description;
  description.platform = {.acpi_hid = "PNP0501", .port_ranges = {{base, 8}}, .irq = irq};
  return description;
}

DeviceDescription PciDevice() {
  DeviceDescription description;
  description.pci = DeviceDescription::PciFunction();
  return description;
}

TEST(DevicePlacesTest, DevicesWithoutConflictsAreAccepted) {
  const DeviceDescription com1 = Uart(0x3f8, 4);
  const DeviceDescription com2 = Uart(0x2f8, 3);
  const DeviceDescription disk = PciDevice();
  EXPECT_TRUE(
      CheckPlaces({{"a", "uart", 0, &com1}, {"b", "uart", 0, &com2}, {"c", "blk", 7, &disk}}).ok());
}

TEST(DevicePlacesTest, APciSlotForADeviceThatIsNotOnThePciBusIsRefused) {
  const DeviceDescription com1 = Uart(0x3f8, 4);
  const absl::Status status = CheckPlaces({{"console", "/b/uart16550", 7, &com1}});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("device 'console' (/b/uart16550): pci_slot: 7 is given for a device that"));
}

TEST(DevicePlacesTest, TwoDevicesOnTheSamePortsOrIrqAreRefused) {
  const DeviceDescription com1 = Uart(0x3f8, 4);
  const DeviceDescription same_ports = Uart(0x3f8, 3);
  const DeviceDescription overlapping = Uart(0x3ff, 3);
  const DeviceDescription same_irq = Uart(0x2f8, 4);
  for (const DeviceDescription* other : {&same_ports, &overlapping}) {
    const absl::Status status = CheckPlaces({{"a", "uart", 0, &com1}, {"b", "uart", 0, other}});
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("are used by device 'a'"));
  }
  const absl::Status status = CheckPlaces({{"a", "uart", 0, &com1}, {"b", "uart", 0, &same_irq}});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("its IRQ 4 is used by device 'a'"));
}

TEST(DevicePlacesTest, ADeviceThatUsesTheVmmsPortsIsAnInternalError) {
  for (const uint16_t base : {0x600, 0x5f9, 0xcf8, 0xcff}) {
    const DeviceDescription liar = Uart(base, 0);
    const absl::Status status = CheckPlaces({{"liar", "/b/liar", 0, &liar}});
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("device 'liar' (/b/liar): its ports"));
  }
}

}  // namespace
}  // namespace bulkhead::vmm
