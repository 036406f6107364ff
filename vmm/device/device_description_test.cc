#include "vmm/device/device_description.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"
#include "proto/durable_layout.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

v1::DeviceInfo GoodPci() {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("virtio-blk");
  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(0x1af4);
  pci.set_device_id(0x1042);
  pci.set_class_code(0x010000);
  pci.set_revision_id(1);
  pci.set_subsystem_vendor_id(0x1af4);
  pci.set_subsystem_id(0x40);
  pci.set_msix_vectors(3);
  pci.set_has_intx(true);
  v1::Bar& bar = *pci.add_bars();
  bar.set_index(4);
  bar.set_size_bytes(16384);
  bar.set_is_64bit(true);
  bar.set_prefetchable(true);
  v1::Bar& small = *pci.add_bars();
  small.set_index(0);
  small.set_size_bytes(16);
  v1::Capability& capability = *pci.add_capabilities();
  capability.set_id(0x09);
  capability.set_body(std::string("\x10\x00\x01", 3));
  capability.set_forwarded(true);
  for (uint64_t offset : {0x1000, 0x1004}) {
    v1::Doorbell& doorbell = *info.add_doorbells();
    doorbell.set_region(4);
    doorbell.set_offset(offset);
    doorbell.set_size_bytes(2);
  }
  info.add_required_resources("disk");
  return info;
}

v1::DeviceInfo GoodPlatform() {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("uart16550");
  info.mutable_platform()->set_acpi_hid("PNP0501");
  info.mutable_platform()->set_irq(4);
  v1::PortRange& range = *info.mutable_platform()->add_port_ranges();
  range.set_base(0x3f8);
  range.set_size(8);
  return info;
}

TEST(DeviceDescriptionTest, ValidatesAPciFunction) {
  const auto device = ValidateDeviceInfo(GoodPci());
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->model, "virtio-blk");
  EXPECT_FALSE(device->platform.has_value());
  EXPECT_TRUE(device->has_line());
  EXPECT_FALSE(device->uses_dma) << "the default";
  EXPECT_FALSE(device->lends_descriptors) << "the default";
  const DeviceDescription::PciFunction& pci = *device->pci;
  EXPECT_EQ(pci.vendor_id, 0x1af4);
  EXPECT_EQ(pci.device_id, 0x1042);
  EXPECT_EQ(pci.class_code, 0x010000u);
  EXPECT_EQ(pci.revision_id, 1);
  EXPECT_EQ(pci.subsystem_vendor_id, 0x1af4);
  EXPECT_EQ(pci.subsystem_id, 0x40);
  EXPECT_EQ(pci.msix_vectors, 3);
  ASSERT_EQ(pci.bars.size(), 2u);
  EXPECT_EQ(pci.bars[0].index, 0);
  EXPECT_EQ(pci.bars[1].index, 4);
  EXPECT_TRUE(pci.bars[1].is_64bit);
  ASSERT_EQ(pci.capabilities.size(), 1u);
  EXPECT_EQ(pci.capabilities[0].body, (std::vector<uint8_t>{0x10, 0x00, 0x01}));
  EXPECT_TRUE(pci.capabilities[0].forwarded);
  ASSERT_EQ(device->doorbells.size(), 2u);
  EXPECT_EQ(device->doorbells[1].offset, 0x1004u);
  EXPECT_EQ(device->required_resources, std::vector<std::string>{"disk"});
}

TEST(DeviceDescriptionTest, ValidatesAPlatformDevice) {
  const auto device = ValidateDeviceInfo(GoodPlatform());
  ASSERT_TRUE(device.ok()) << device.status();
  ASSERT_TRUE(device->platform.has_value());
  EXPECT_EQ(device->platform->acpi_hid, "PNP0501");
  EXPECT_EQ(device->platform->irq, 4);
  EXPECT_EQ(device->platform->port_ranges[0].base, 0x3f8);
  EXPECT_TRUE(device->has_line());
}

TEST(DeviceDescriptionTest, ASuccessorMustBeEqual) {
  const auto device = ValidateDeviceInfo(GoodPci());
  EXPECT_EQ(*device, *ValidateDeviceInfo(GoodPci()));
  v1::DeviceInfo other = GoodPci();
  other.mutable_pci()->mutable_bars(0)->set_size_bytes(32768);
  EXPECT_NE(*device, *ValidateDeviceInfo(other));
  EXPECT_NE(*device, *ValidateDeviceInfo(GoodPlatform()));
}

TEST(DeviceDescriptionTest, ADifferenceIsNamed) {
  const std::vector<std::pair<std::function<void(v1::DeviceInfo&)>, std::string>> cases = {
      {[](auto&) {}, ""},
      {[](auto& i) { i.set_model("virtio-net"); }, "model (virtio-blk, virtio-net)"},
      {[](auto& i) { i = GoodPlatform(); }, "model (virtio-blk, uart16550)"},
      {[](auto& i) { i.mutable_pci()->mutable_bars(0)->set_size_bytes(32768); }, "BARs"},
      {[](auto& i) { i.mutable_pci()->set_msix_vectors(2); }, "number of MSI-X vectors"},
      {[](auto& i) { i.mutable_pci()->set_has_intx(false); }, "interrupt line"},
      {[](auto& i) { i.mutable_pci()->clear_capabilities(); }, "PCI capabilities"},
      {[](auto& i) { i.mutable_pci()->set_revision_id(2); }, "PCI identification"},
      {[](auto& i) { i.set_uses_dma(true); }, "use of DMA"},
      {[](auto& i) { i.set_lends_descriptors(true); }, "lending of descriptors"},
      {[](auto& i) { i.mutable_doorbells(0)->set_offset(0x1008); }, "doorbells"},
      {[](auto& i) { i.clear_required_resources(); }, "required resources"},
      {[](auto& i) { i.set_state_version(7); }, "state version (0, 7)"},
      {[](auto& i) { i.set_saved_state_bytes(1); }, "state size"},
      {[](auto& i) { i.set_durable_memory_bytes(1); }, "state size"},
  };
  const DeviceDescription before = *ValidateDeviceInfo(GoodPci());
  for (const auto& [change, difference] : cases) {
    v1::DeviceInfo info = GoodPci();
    change(info);
    const absl::StatusOr<DeviceDescription> after = ValidateDeviceInfo(info);
    ASSERT_TRUE(after.ok()) << after.status();
    EXPECT_EQ(Difference(before, *after), difference);
    EXPECT_EQ(before == *after, difference.empty());
  }
}

TEST(DeviceDescriptionTest, ContainsTheSizesOfTheState) {
  v1::DeviceInfo info = GoodPci();
  info.set_saved_state_bytes(kMaxSavedStateBytes);
  info.set_durable_memory_bytes(kMaxDurableMemoryBytes);
  info.set_state_version(3);
  const auto device = ValidateDeviceInfo(info);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->saved_state_bytes, kMaxSavedStateBytes);
  EXPECT_EQ(device->durable_memory_bytes, kMaxDurableMemoryBytes);
  EXPECT_EQ(device->state_version, 3u);
}

TEST(DeviceDescriptionTest, CapabilitiesMayFillTheSpaceButNotPassIt) {
  v1::DeviceInfo info = GoodPci();  // 12 bytes for MSI-X, 8 for resets: 172 are left
  info.mutable_pci()->mutable_capabilities(0)->set_body(std::string(170, 'x'));
  EXPECT_TRUE(ValidateDeviceInfo(info).ok());
  info.mutable_pci()->mutable_capabilities(0)->set_body(std::string(171, 'x'));
  EXPECT_THAT(std::string(ValidateDeviceInfo(info).status().message()),
              HasSubstr("take 196 bytes of configuration space, at most 192"));
}

TEST(DeviceDescriptionTest, DoorbellsMayLieAtTheEndOfTheirBar) {
  v1::DeviceInfo info = GoodPci();
  info.mutable_doorbells(1)->set_offset(16384 - 4);
  info.mutable_doorbells(1)->set_size_bytes(4);
  EXPECT_TRUE(ValidateDeviceInfo(info).ok());
  info.mutable_doorbells(1)->set_offset(16384 - 1);
  info.mutable_doorbells(1)->set_size_bytes(0);  // any width
  EXPECT_TRUE(ValidateDeviceInfo(info).ok());
}

TEST(DeviceDescriptionTest, TheLargestPortRangeEndsAtTheLastPort) {
  v1::DeviceInfo info = GoodPlatform();
  info.mutable_platform()->mutable_port_ranges(0)->set_base(0xfff8);
  EXPECT_TRUE(ValidateDeviceInfo(info).ok());
}

struct BadInfo {
  const char* name;
  std::function<void(v1::DeviceInfo&)> spoil;
  const char* message;
};

class BadDeviceInfoTest : public testing::TestWithParam<BadInfo> {};

TEST_P(BadDeviceInfoTest, IsRefusedWithFieldAndValue) {
  v1::DeviceInfo info = GoodPci();
  GetParam().spoil(info);
  const auto device = ValidateDeviceInfo(info);
  ASSERT_FALSE(device.ok());
  EXPECT_THAT(std::string(device.status().message()), HasSubstr(GetParam().message));
}

v1::Bar& Bar0(v1::DeviceInfo& info) { return *info.mutable_pci()->mutable_bars(1); }
v1::Capability& Capability0(v1::DeviceInfo& info) {
  return *info.mutable_pci()->mutable_capabilities(0);
}

INSTANTIATE_TEST_SUITE_P(
    Pci, BadDeviceInfoTest,
    testing::ValuesIn<BadInfo>({
        {"Contract", [](auto& i) { i.set_contract_version(99); }, "contract_version is 99"},
        {"NoModel", [](auto& i) { i.clear_model(); }, "model is ''"},
        {"ModelEscape", [](auto& i) { i.set_model("\x1b[m"); }, "model is '\\x1b[m'"},
        {"ModelLong", [](auto& i) { i.set_model(std::string(65, 'a')); }, "1 to 64"},
        {"NoPlacement", [](auto& i) { i.clear_pci(); }, "neither"},
        {"Vendor", [](auto& i) { i.mutable_pci()->set_vendor_id(0x10000); },
         "vendor_id: 0x10000 is out of range (0 to 0xffff)"},
        {"NoVendor", [](auto& i) { i.mutable_pci()->set_vendor_id(0xffff); }, "no device"},
        {"Device", [](auto& i) { i.mutable_pci()->set_device_id(~0u); }, "device_id"},
        {"Class", [](auto& i) { i.mutable_pci()->set_class_code(1 << 24); }, "class_code"},
        {"Revision", [](auto& i) { i.mutable_pci()->set_revision_id(256); }, "revision_id"},
        {"SubsystemVendor", [](auto& i) { i.mutable_pci()->set_subsystem_vendor_id(~0u); },
         "subsystem_vendor_id"},
        {"Subsystem", [](auto& i) { i.mutable_pci()->set_subsystem_id(~0u); }, "subsystem_id"},
        {"Vectors", [](auto& i) { i.mutable_pci()->set_msix_vectors(2049); },
         "msix_vectors: 0x801 is out of range (0 to 0x800)"},
        {"BarIndex", [](auto& i) { Bar0(i).set_index(6); }, "BAR 6"},
        {"BarTwice", [](auto& i) { Bar0(i).set_index(4); }, "BAR 4: overlaps"},
        {"BarInUpperHalf", [](auto& i) { Bar0(i).set_index(5); }, "BAR 5: overlaps"},
        {"LastBar64",
         [](auto& i) {
           i.mutable_pci()->mutable_bars()->DeleteSubrange(0, 1);
           i.clear_doorbells();
           i.mutable_pci()->mutable_bars(0)->set_index(5);
           i.mutable_pci()->mutable_bars(0)->set_is_64bit(true);
         },
         "this is the last one"},
        {"BarSizeOdd", [](auto& i) { Bar0(i).set_size_bytes(24); }, "size_bytes is 24"},
        {"BarSizeSmall", [](auto& i) { Bar0(i).set_size_bytes(8); }, "size_bytes is 8"},
        {"BarSizeZero", [](auto& i) { Bar0(i).set_size_bytes(0); }, "size_bytes is 0"},
        {"BarSizeHuge", [](auto& i) { Bar0(i).set_size_bytes(uint64_t{1} << 31); }, "1 GiB"},
        {"NoBarLeftForMsix",
         [](auto& i) {
           for (uint32_t index : {1, 2, 3}) {
             v1::Bar& bar = *i.mutable_pci()->add_bars();
             bar.set_index(index);
             bar.set_size_bytes(16);
           }
         },
         "no BAR index is free"},
        {"CapabilityMsi", [](auto& i) { Capability0(i).set_id(5); }, "capability ID 0x5"},
        {"CapabilityMsix", [](auto& i) { Capability0(i).set_id(17); }, "capability ID 0x11"},
        {"CapabilityNull", [](auto& i) { Capability0(i).set_id(0); }, "capability ID 0x0"},
        {"CapabilityWide", [](auto& i) { Capability0(i).set_id(256); }, "capability ID 0x100"},
        {"CapabilityShort", [](auto& i) { Capability0(i).set_body("x"); }, "body has 1 bytes"},
        {"CapabilityLong", [](auto& i) { Capability0(i).set_body(std::string(253, 'x')); },
         "body has 253 bytes"},
        {"CapabilitiesTooMany",
         [](auto& i) {
           for (int n = 0; n < 16; ++n) *i.mutable_pci()->add_capabilities() = Capability0(i);
         },
         "17 capabilities"},
        {"CapabilitiesTooLarge",  // 12 of MSI-X, 8 of the first, 176 of this
         [](auto& i) {
           v1::Capability& large = *i.mutable_pci()->add_capabilities();
           large.set_id(9);
           large.set_body(std::string(173, 'x'));
         },
         "take 204 bytes"},
        {"DoorbellRegion", [](auto& i) { i.mutable_doorbells(0)->set_region(1); }, "no region 1"},
        {"DoorbellCapabilityRegion", [](auto& i) { i.mutable_doorbells(0)->set_region(16); },
         "no region 16"},
        {"DoorbellOffset", [](auto& i) { i.mutable_doorbells(0)->set_offset(16383); },
         "offset 0x3fff is beyond"},
        {"DoorbellOffsetWraps", [](auto& i) { i.mutable_doorbells(0)->set_offset(~uint64_t{0}); },
         "is beyond"},
        {"DoorbellSize", [](auto& i) { i.mutable_doorbells(0)->set_size_bytes(3); },
         "size_bytes is 3"},
        {"DoorbellsOverlap", [](auto& i) { i.mutable_doorbells(1)->set_offset(0x1001); },
         "doorbell 1: offset 0x1001 overlaps"},
        {"DoorbellsEqual",
         [](auto& i) {
           i.mutable_doorbells(0)->set_size_bytes(0);
           i.mutable_doorbells(1)->set_size_bytes(0);
           i.mutable_doorbells(1)->set_offset(0x1000);
         },
         "overlaps"},
        {"DoorbellsTooMany",
         [](auto& i) {
           while (i.doorbells_size() < 129) i.add_doorbells();
         },
         "129 doorbells"},
        {"ResourceName", [](auto& i) { i.add_required_resources("a b"); },
         "required_resources is 'a b'"},
        {"ResourcesTooMany",
         [](auto& i) {
           while (i.required_resources_size() < 33) i.add_required_resources("a");
         },
         "33 required resources"},
        {"SavedState", [](auto& i) { i.set_saved_state_bytes(kMaxSavedStateBytes + 1); },
         "saved_state_bytes: 0x40001 is out of range (0 to 0x40000)"},
        {"DurableMemory", [](auto& i) { i.set_durable_memory_bytes(kMaxDurableMemoryBytes + 1); },
         "durable_memory_bytes: 0x1000001 is out of range (0 to 0x1000000)"},
        {"Hid",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->set_acpi_hid("pnp0501");
         },
         "acpi_hid is 'pnp0501'"},
        {"HidQuote",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->set_acpi_hid("PNP\"051");
         },
         "acpi_hid"},
        {"HidNotHexadecimal",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->set_acpi_hid("PNP050G");
         },
         "acpi_hid is 'PNP050G'"},
        {"HidEmpty",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->clear_acpi_hid();
         },
         "acpi_hid is ''"},
        {"HidLong",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->set_acpi_hid("PNP0501X");
         },
         "acpi_hid is 'PNP0501X'"},
        {"HidShort",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->set_acpi_hid("ABCD01");
         },
         "acpi_hid is 'ABCD01'"},
        {"NoPorts",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->clear_port_ranges();
         },
         "0 port ranges"},
        {"PortsTooMany",
         [](auto& i) {
           i = GoodPlatform();
           for (int n = 0; n < 8; ++n) i.mutable_platform()->add_port_ranges();
         },
         "9 port ranges"},
        {"PortEmpty",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->add_port_ranges();
         },
         "port range 0x0 + 0x0"},
        {"PortRangeTooLong",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->mutable_port_ranges(0)->set_size(256);
         },
         "port range 0x3f8 + 0x100: must be 1 to 255 ports"},
        {"PowerButton",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->set_irq(9);
         },
         "irq is 9, which ACPI uses"},
        {"PortBeyond",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->mutable_port_ranges(0)->set_base(0xfff9);
         },
         "0xfff9 + 0x8"},
        {"PortWraps",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->mutable_port_ranges(0)->set_base(~0u);
         },
         "0xffffffff + 0x8"},
        {"PortsOverlap",
         [](auto& i) {
           i = GoodPlatform();
           v1::PortRange& second = *i.mutable_platform()->add_port_ranges();
           second.set_base(0x3ff);
           second.set_size(1);
         },
         "port range 0x3ff + 0x1: overlaps"},
        {"Irq",
         [](auto& i) {
           i = GoodPlatform();
           i.mutable_platform()->set_irq(16);
         },
         "irq: 0x10 is out of range"},
    }),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace bulkhead::vmm
