// Configuration space as a driver finds it: both mechanisms, partial widths, absent functions,
// BAR sizing and moves, capabilities. Needs the rig.

#include "kernel_images/baremetal/lib/pci.h"

#include "devices/rig/registers.h"
#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/report.h"
#include "kernel_images/baremetal/programs.h"

namespace bulkhead::guest {
namespace {

using namespace devices::rig;

constexpr ConfigMechanism kBothMechanisms[] = {ConfigMechanism::kPorts, ConfigMechanism::kEcam};

void CheckSameByBothMechanisms() {
  uint32_t present = 0;
  for (uint8_t slot = 0; slot < 32; ++slot) {
    const PciFunction by_ports(slot, 0);
    const PciFunction by_ecam = by_ports.By(ConfigMechanism::kEcam);
    if (by_ports.IsPresent()) ++present;
    for (uint16_t offset = 0; offset < 256; offset = static_cast<uint16_t>(offset + 4)) {
      EXPECT_EQ(by_ecam.Read<uint32_t>(offset), by_ports.Read<uint32_t>(offset));
      if (!by_ports.IsPresent()) break;
    }
  }
  Print(present, " PCI functions\n");
  EXPECT_TRUE(PciFunction(0, 0).IsPresent());  // the host bridge
  EXPECT_TRUE(present >= 2);
}

void CheckAbsentFunctionsReadAllOnes() {
  for (const ConfigMechanism mechanism : kBothMechanisms) {
    for (uint8_t slot = 0; slot < 32; ++slot) {
      // Functions 1 to 7 of any slot, and every function of an empty one.
      const uint8_t first = PciFunction(slot, 0).IsPresent() ? 1 : 0;
      const PciFunction absent(slot, first, mechanism);
      absent.Write<uint32_t>(kPciCommand, 0);
      EXPECT_EQ(absent.Read<uint32_t>(kPciVendorId), 0xffffffffu);
      EXPECT_EQ(absent.Read<uint16_t>(kPciDeviceId), 0xffffu);
      EXPECT_EQ(absent.Read<uint8_t>(0x3f), 0xffu);
    }
  }
}

void CheckPartialWidths(const PciFunction& function) {
  // The identification, read in every way that is naturally aligned.
  EXPECT_EQ(function.Read<uint32_t>(kPciVendorId), (uint32_t{kDeviceId} << 16) | kVendorId);
  EXPECT_EQ(function.Read<uint16_t>(kPciVendorId), kVendorId);
  EXPECT_EQ(function.Read<uint16_t>(kPciDeviceId), kDeviceId);
  EXPECT_EQ(function.Read<uint8_t>(kPciVendorId), kVendorId & 0xff);
  EXPECT_EQ(function.Read<uint8_t>(kPciVendorId + 1), kVendorId >> 8);
  EXPECT_EQ(function.Read<uint8_t>(kPciDeviceId), kDeviceId & 0xff);
  EXPECT_EQ(function.Read<uint8_t>(kPciDeviceId + 1), kDeviceId >> 8);
  EXPECT_EQ(function.Read<uint32_t>(kPciRevisionAndClass), (kClassCode << 8) | kVersion);
  EXPECT_EQ(function.Read<uint16_t>(kPciSubsystemVendorId), kSubsystemVendorId);
  EXPECT_EQ(function.Read<uint16_t>(kPciSubsystemId), kSubsystemId);
  EXPECT_EQ(function.Read<uint8_t>(kPciHeaderType), 0);

  // A write of one byte leaves its neighbours alone: the interrupt line beside the pin.
  const uint8_t pin = function.Read<uint8_t>(kPciInterruptPin);
  EXPECT_EQ(pin, 1);
  function.Write<uint8_t>(kPciInterruptLine, 0xa5);
  EXPECT_EQ(function.Read<uint8_t>(kPciInterruptLine), 0xa5);
  EXPECT_EQ(function.Read<uint16_t>(kPciInterruptLine), 0xa5 | (pin << 8));
  function.Write<uint8_t>(kPciInterruptPin, 0xff);
  function.Write<uint16_t>(kPciVendorId, 0);
  function.Write<uint32_t>(kPciRevisionAndClass, 0);
  EXPECT_EQ(function.Read<uint8_t>(kPciInterruptPin), pin);
  EXPECT_EQ(function.Read<uint16_t>(kPciVendorId), kVendorId);
  EXPECT_EQ(function.Read<uint32_t>(kPciRevisionAndClass), (kClassCode << 8) | kVersion);
}

void CheckAddressPort() {
  constexpr uint16_t kConfigAddress = 0xcf8;
  constexpr uint16_t kConfigData = 0xcfc;
  // The address register is there for whole accesses only and keeps what it may keep. Narrower ones
  // pass it by: what a PC has there has its own registers.
  Out32(kConfigAddress, 0x80000000);
  EXPECT_EQ(In32(kConfigAddress), 0x80000000u);
  Out8(kConfigAddress + 3, 0);
  Out16(kConfigAddress, 0xffff);
  EXPECT_EQ(In8(kConfigAddress + 3), 0xffu);
  EXPECT_EQ(In16(kConfigAddress), 0xffffu);
  EXPECT_EQ(In32(kConfigAddress), 0x80000000u);
  // Any width and place of the data port.
  const uint32_t ids = In32(kConfigData);
  for (uint16_t i = 0; i < 4; ++i) {
    EXPECT_EQ(In8(static_cast<uint16_t>(kConfigData + i)), ids >> (8 * i) & 0xff);
  }
  EXPECT_EQ(In16(kConfigData + 2), ids >> 16);
  // Without the enable bit the data port leads nowhere.
  Out32(kConfigAddress, 0);
  EXPECT_EQ(In32(kConfigData), 0xffffffffu);
  // Buses other than 0 are empty.
  Out32(kConfigAddress, 0x80010000);
  EXPECT_EQ(In32(kConfigData), 0xffffffffu);
}

void CheckBars(const PciFunction& function) {
  const PciFunction::Bar registers = function.ReadBar(kRegisterBar);
  EXPECT_EQ(registers.size_bytes, kRegisterBarSize);
  EXPECT_TRUE(!registers.is_port && !registers.is_64bit && !registers.is_prefetchable);
  const PciFunction::Bar memory = function.ReadBar(kMemoryBar);
  EXPECT_EQ(memory.size_bytes, kMemoryBarSize);
  EXPECT_TRUE(memory.is_64bit && memory.is_prefetchable);
  EXPECT_TRUE(registers.address != 0 && memory.address != 0);

  // Decoding follows the command register.
  function.SetCommandBits(kCommandMemory);
  EXPECT_EQ(MmioRead<uint32_t>(registers.address), kIdentification);
  function.ClearCommandBits(kCommandMemory);
  EXPECT_EQ(MmioRead<uint32_t>(registers.address), 0xffffffffu);
  function.SetCommandBits(kCommandMemory);
  EXPECT_EQ(MmioRead<uint32_t>(registers.address), kIdentification);

  // Moves: the old place is empty, the new one has the same device with the same contents.
  MmioWrite<uint32_t>(registers.address + kScratchOffset, 0x600df00d);
  const uint64_t new_registers = registers.address + (uint64_t{16} << 20);
  function.MoveBar(kRegisterBar, new_registers);
  EXPECT_EQ(function.ReadBar(kRegisterBar).address, new_registers);
  EXPECT_EQ(MmioRead<uint32_t>(registers.address + kScratchOffset), 0xffffffffu);
  EXPECT_EQ(MmioRead<uint32_t>(new_registers + kScratchOffset), 0x600df00du);
  function.MoveBar(kRegisterBar, registers.address);
  EXPECT_EQ(MmioRead<uint32_t>(registers.address + kScratchOffset), 0x600df00du);

  // A 64-bit BAR goes by halves.
  MmioWrite<uint64_t>(memory.address + 8, 0x1122334455667788);
  const uint64_t new_memory = memory.address + (uint64_t{1} << 30);
  function.MoveBar(kMemoryBar, new_memory);
  EXPECT_EQ(function.ReadBar(kMemoryBar).address, new_memory);
  EXPECT_EQ(MmioRead<uint64_t>(new_memory + 8), 0x1122334455667788u);
  EXPECT_EQ(MmioRead<uint64_t>(memory.address + 8), ~uint64_t{0});
  function.MoveBar(kMemoryBar, memory.address);
  EXPECT_EQ(MmioRead<uint64_t>(memory.address + 8), 0x1122334455667788u);
}

void CheckCapabilities(const PciFunction& function) {
  const uint16_t forwarded = function.FindCapability(kVendorCapabilityId, 0);
  const uint16_t constant = function.FindCapability(kVendorCapabilityId, 1);
  EXPECT_TRUE(forwarded != 0 && constant != 0);
  EXPECT_EQ(function.FindCapability(kVendorCapabilityId, 2), 0);
  const auto at = [](uint16_t capability, int offset) {
    return static_cast<uint16_t>(capability + offset);
  };
  EXPECT_EQ(function.Read<uint8_t>(at(forwarded, 2)), kCapabilitySize);
  EXPECT_EQ(function.Read<uint8_t>(at(constant, 2)), kCapabilitySize);

  for (const ConfigMechanism mechanism : kBothMechanisms) {
    const PciFunction by = function.By(mechanism);
    by.Write<uint32_t>(at(forwarded, 4), 0x04030201);
    by.Write<uint8_t>(at(forwarded, 6), 0xaa);
    by.Write<uint16_t>(at(forwarded, 4), 0xbbcc);
    EXPECT_EQ(by.Read<uint32_t>(at(forwarded, 4)), 0x04aabbccu);
    EXPECT_EQ(by.Read<uint8_t>(at(forwarded, 7)), 0x04);
    // Its ID and next pointer belong to the machine.
    const uint16_t head = by.Read<uint16_t>(forwarded);
    by.Write<uint16_t>(forwarded, 0xffff);
    EXPECT_EQ(by.Read<uint16_t>(forwarded), head);

    by.Write<uint32_t>(at(constant, 4), 0);
    EXPECT_EQ(by.Read<uint32_t>(at(constant, 4)), 0x4b4c5542u);  // "BULK"
  }

  const uint16_t msix = function.FindCapability(kCapabilityMsix);
  EXPECT_TRUE(msix != 0);
  EXPECT_EQ((function.Read<uint16_t>(at(msix, 2)) & 0x7ff) + 1u, kMsixVectors);
}

}  // namespace

void RunPciTest() {
  CheckSameByBothMechanisms();
  CheckAbsentFunctionsReadAllOnes();
  CheckAddressPort();
  const PciFunction rig = FindFunction(kVendorId, kDeviceId);
  for (const ConfigMechanism mechanism : kBothMechanisms) {
    CheckPartialWidths(rig.By(mechanism));
    CheckBars(rig.By(mechanism));
  }
  CheckCapabilities(rig);
}

}  // namespace bulkhead::guest
