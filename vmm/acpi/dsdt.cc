#include "vmm/acpi/dsdt.h"

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "vmm/device/hardware_id.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

using aml::Bytes;

constexpr uint64_t kPresentAndEnabled = 0xf;  // _STA

// PCI Firmware Specification 3.3, section 4.6: the host bridge's _DSM,
// E5C937D0-3553-4D7A-9117-EA4D19C3434D in ToUUID()'s byte order.
const Bytes& PciDsmUuid() {
  static const Bytes uuid = {0xd0, 0x37, 0xc9, 0xe5, 0x53, 0x35, 0x7a, 0x4d,
                             0x91, 0x17, 0xea, 0x4d, 0x19, 0xc3, 0x43, 0x4d};
  return uuid;
}
constexpr uint64_t kDsmPreserveBootConfiguration = 5;

Bytes HardwareId(absl::string_view id) {
  return aml::Name("_HID", IsEisaId(id) ? aml::EisaId(id) : aml::String(id));
}

Bytes Processors(uint32_t count) {
  Bytes out;
  for (uint32_t i = 0; i < count; ++i) {
    out = aml::Concat({out, aml::Device(absl::StrFormat("C%03X", i),
                                        {HardwareId("ACPI0007"), aml::Name("_UID", aml::Integer(i)),
                                         aml::Name("_STA", aml::Integer(kPresentAndEnabled))})});
  }
  return out;
}

// INTA# of every slot except the host bridge's.
Bytes InterruptRouting() {
  constexpr uint64_t kEveryFunction = 0xffff;
  constexpr uint64_t kInta = 0;
  std::vector<Bytes> routes;
  for (uint32_t slot = 1; slot < layout::kMaxPciSlots; ++slot) {
    const uint32_t gsi = layout::kIntxGsiBase + slot % layout::kIntxGsiCount;
    routes.push_back(aml::Package({aml::Integer(uint64_t{slot} << 16 | kEveryFunction),
                                   aml::Integer(kInta), aml::Integer(0), aml::Integer(gsi)}));
  }
  return aml::Package(routes);
}

// Function 5 answers 0: the guest keeps the BARs where they are.
Bytes HostBridgeDsm() {
  const Bytes supported_functions = {1 << 0 | 1 << kDsmPreserveBootConfiguration};
  return aml::Method(
      "_DSM", 4,
      {aml::If(aml::Equal(aml::Argument(0), aml::Buffer(PciDsmUuid())),
               {aml::If(aml::Equal(aml::Argument(2), aml::Integer(0)),
                        {aml::Return(aml::Buffer(supported_functions))}),
                aml::If(aml::Equal(aml::Argument(2), aml::Integer(kDsmPreserveBootConfiguration)),
                        {aml::Return(aml::Integer(0))})}),
       aml::Return(aml::Buffer({0}))});
}

Bytes PciRoot(GuestAddress high_window_start) {
  constexpr uint16_t kConfigPorts = 8;
  return aml::Device(
      "PCI0",
      {HardwareId("PNP0A08"), aml::Name("_CID", aml::EisaId("PNP0A03")),
       aml::Name("_UID", aml::Integer(0)), aml::Name("_SEG", aml::Integer(0)),
       aml::Name("_BBN", aml::Integer(0)),
       aml::Name("_CRS",
                 aml::ResourceTemplate(
                     {aml::BusNumbers(0, 0), aml::IoPorts(layout::kPciConfigAddress, kConfigPorts),
                      aml::PortWindow(0, layout::kPciConfigAddress - 1),
                      aml::PortWindow(layout::kPciConfigAddress + kConfigPorts, 0xffff),
                      aml::MemoryWindow32(static_cast<uint32_t>(layout::kMmio32Start),
                                          static_cast<uint32_t>(layout::kMmio32End - 1)),
                      aml::MemoryWindow64(high_window_start,
                                          high_window_start + layout::kMmio64Size - 1)})),
       aml::Name("_PRT", InterruptRouting()), HostBridgeDsm()});
}

// Motherboard resources: the guest must not place devices here.
Bytes ReservedRanges() {
  return aml::Device(
      "RSVD", {HardwareId("PNP0C02"), aml::Name("_UID", aml::Integer(0)),
               aml::Name("_CRS", aml::ResourceTemplate(
                                     {aml::Memory32Fixed(static_cast<uint32_t>(layout::kEcamStart),
                                                         static_cast<uint32_t>(layout::kEcamSize)),
                                      aml::IoPorts(layout::kAcpiPort, layout::kAcpiPortCount)}))});
}

// The device that wakes the guest. It is a control method power button (ACPI 6.5, section
// 4.8.2.2.1.2) that is never pressed: of the devices that may wake a machine, Linux arms only
// buttons by itself.
Bytes WakeDevice() {
  constexpr uint64_t kDeepestSleepState = 4;
  return aml::Device("WAKE", {HardwareId("PNP0C0C"), aml::Name("_UID", aml::Integer(0)),
                              aml::Name("_PRW", aml::Package({aml::Integer(layout::kWakeGpe),
                                                              aml::Integer(kDeepestSleepState)}))});
}

// Called for the general-purpose event layout::kWakeGpe.
Bytes WakeEvent() {
  constexpr uint8_t kWoken = 0x02;
  static_assert(layout::kWakeGpe == 0);
  return aml::Method("_E00", 0, {aml::Notify("\\_SB_.WAKE", kWoken)});
}

Bytes PlatformDevice(uint32_t index, const std::string& name,
                     const DeviceDescription::PlatformDevice& device) {
  Bytes resources;
  for (const DeviceDescription::PortRange& range : device.port_ranges) {
    resources =
        aml::Concat({resources, aml::IoPorts(range.base, static_cast<uint8_t>(range.size))});
  }
  if (device.irq != 0) resources = aml::Concat({resources, aml::EdgeInterrupt(device.irq)});
  return aml::Device(
      absl::StrFormat("D%03X", index),
      {HardwareId(device.acpi_hid), aml::Name("_UID", aml::Integer(index)),
       aml::Name("_DDN", aml::String(name)), aml::Name("_STA", aml::Integer(kPresentAndEnabled)),
       aml::Name("_CRS", aml::ResourceTemplate({resources}))});
}

}  // namespace

Bytes DsdtTerms(uint32_t vcpus, GuestAddress high_window_start,
                const std::vector<AcpiPlatformDevice>& platform_devices) {
  Bytes devices;
  for (uint32_t i = 0; i < platform_devices.size(); ++i) {
    devices = aml::Concat(
        {devices, PlatformDevice(i, platform_devices[i].name, platform_devices[i].device)});
  }
  // The first number is the SLP_TYP of layout::kAcpiS5Value. There is no PM1b.
  constexpr uint64_t kS5SleepType = layout::kAcpiS5Value >> 2 & 0x7;
  return aml::Concat({aml::Scope("_SB_", {Processors(vcpus), PciRoot(high_window_start),
                                          ReservedRanges(), WakeDevice(), devices}),
                      aml::Scope("_GPE", {WakeEvent()}),
                      aml::Name("_S5_", aml::Package({aml::Integer(kS5SleepType), aml::Integer(0),
                                                      aml::Integer(0), aml::Integer(0)}))});
}

}  // namespace bulkhead::vmm
