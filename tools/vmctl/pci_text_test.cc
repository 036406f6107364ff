#include "tools/vmctl/pci_text.h"

#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "tools/vmctl/pci_classes.h"

namespace bulkhead::vmctl {
namespace {

v1::Device DeviceOf(const std::string& text) {
  v1::Device device;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &device));
  return device;
}

TEST(PciTextTest, TheLineIsLspcisAndNamesTheDevice) {
  EXPECT_EQ(PciLine(DeviceOf(R"(name: "disk0" model: "virtio-blk" pci {
                                  address: "00:03.0" vendor_id: 0x1af4 device_id: 0x1042
                                  class_code: 0x010000 revision_id: 1 })")),
            "00:03.0 SCSI storage controller [0100]: 1af4:1042 (rev 01) disk0, virtio-blk\n");
}

TEST(PciTextTest, AProgrammingInterfaceIsShownWhereItSaysSomething) {
  EXPECT_EQ(PciLine(DeviceOf(R"(name: "n" pci { address: "00:04.0" vendor_id: 1 device_id: 2
                                               class_code: 0x010802 })")),
            "00:04.0 Non-Volatile memory controller [0108]: 0001:0002 (prog-if 02) n\n");
}

TEST(PciTextTest, DetailsHaveBarsCapabilitiesAndDoorbells) {
  EXPECT_EQ(PciDetails(DeviceOf(R"(doorbells { region: 4 offset: 0x3000 size_bytes: 4 }
                                   doorbells { region: 4 offset: 0x3004 }
                                   pci { subsystem_vendor_id: 0x1af4 subsystem_id: 0x40
                                         bars { index: 0 address: 0xfe000000 size_bytes: 4096
                                                decoded: true owned_by_vmm: true }
                                         bars { index: 4 address: 0x800000000 size_bytes: 1048576
                                                is_64bit: true decoded: true }
                                         bars { index: 2 size_bytes: 256 }
                                         msix_vectors: 3 msix_enabled: true bus_master: true
                                         has_intx: true })"),
                       "\t"),
            "\tSubsystem: 1af4:0040\n"
            "\tControl: BusMaster+\n"
            "\tBAR 0: memory at fe000000 (32-bit) [size=4 KiB] [MSI-X table, of the vmm]\n"
            "\tBAR 4: memory at 800000000 (64-bit) [size=1 MiB]\n"
            "\tBAR 2: not placed (32-bit) [size=256 bytes] [disabled]\n"
            "\tCapabilities: MSI-X: Enable+ Count=3\n"
            "\tInterrupt: pin A\n"
            "\tDoorbell: BAR 4, offset 0x3000, 4 bytes\n"
            "\tDoorbell: BAR 4, offset 0x3004, any size\n");
}

TEST(PciClassNameTest, FallsBackToTheClassAndThenToUnknown) {
  EXPECT_EQ(PciClassName(0x0200), "Ethernet controller");
  EXPECT_EQ(PciClassName(0x02fe), "Network controller");
  EXPECT_EQ(PciClassName(0xff00), "Unassigned class");
  EXPECT_EQ(PciClassName(0x7700), "Unknown class");
  EXPECT_EQ(PciClassName(0xffffff), "Unknown class");
}

}  // namespace
}  // namespace bulkhead::vmctl
