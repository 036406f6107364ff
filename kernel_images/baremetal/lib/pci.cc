#include "kernel_images/baremetal/lib/pci.h"

#include "kernel_images/baremetal/lib/boot_info.h"
#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/report.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kConfigAddress = 0xcf8;
constexpr uint16_t kConfigData = 0xcfc;
constexpr uint32_t kConfigEnable = 1u << 31;

constexpr uint64_t kBarPort = 1 << 0;
constexpr uint64_t kBar64Bit = 1 << 2;
constexpr uint64_t kBarPrefetchable = 1 << 3;

constexpr uint16_t kMsixControl = 2;
constexpr uint16_t kMsixTable = 4;
constexpr uint16_t kMsixPending = 8;
constexpr uint16_t kMsixEnable = 1 << 15;
constexpr uint16_t kMsixFunctionMask = 1 << 14;
constexpr uint16_t kMsixSizeMask = 0x7ff;
constexpr uint64_t kMsixEntryBytes = 16;
constexpr uint64_t kEntryAddress = 0;
constexpr uint64_t kEntryData = 8;
constexpr uint64_t kEntryControl = 12;

uint64_t EcamAddress(uint8_t device, uint8_t function, uint16_t offset) {
  static uint64_t base = 0;
  if (base == 0) {
    base = EcamBase();
    if (base == 0) Fail("no MCFG table");
    if (!MapDeviceMemory(base, 1 << 20) && base >= uint64_t{1} << 32) Fail("ECAM not mappable");
  }
  return base + (uint64_t{device} << 15) + (uint64_t{function} << 12) + offset;
}

// For machines whose firmware does not place BARs, such as QEMU's with qboot.
uint64_t ChooseAddress(uint64_t size_bytes) {
  constexpr uint64_t kEnd = 0xe0000000;  // in the hole below 4 GiB of every machine known
  static uint64_t next = 0xd0000000;
  const uint64_t address = (next + size_bytes - 1) & ~(size_bytes - 1);
  if (size_bytes > kEnd - next || address + size_bytes > kEnd) {
    Fail("no room for a BAR of ", Hex(size_bytes), " bytes");
  }
  next = address + size_bytes;
  return address;
}

void SelectByPorts(uint8_t device, uint8_t function, uint16_t offset) {
  Out32(kConfigAddress,
        kConfigEnable | (uint32_t{device} << 11) | (uint32_t{function} << 8) | (offset & 0xfcu));
}

}  // namespace

template <typename T>
T PciFunction::Read(uint16_t offset) const {
  if (mechanism_ == ConfigMechanism::kEcam) {
    return MmioRead<T>(EcamAddress(device_, function_, offset));
  }
  SelectByPorts(device_, function_, offset);
  const uint16_t port = static_cast<uint16_t>(kConfigData + (offset & 3));
  if constexpr (sizeof(T) == 1) return In8(port);
  if constexpr (sizeof(T) == 2) return In16(port);
  if constexpr (sizeof(T) == 4) return In32(port);
}

template <typename T>
void PciFunction::Write(uint16_t offset, T value) const {
  if (mechanism_ == ConfigMechanism::kEcam) {
    MmioWrite<T>(EcamAddress(device_, function_, offset), value);
    return;
  }
  SelectByPorts(device_, function_, offset);
  const uint16_t port = static_cast<uint16_t>(kConfigData + (offset & 3));
  if constexpr (sizeof(T) == 1) Out8(port, value);
  if constexpr (sizeof(T) == 2) Out16(port, value);
  if constexpr (sizeof(T) == 4) Out32(port, value);
}

template uint8_t PciFunction::Read<uint8_t>(uint16_t) const;
template uint16_t PciFunction::Read<uint16_t>(uint16_t) const;
template uint32_t PciFunction::Read<uint32_t>(uint16_t) const;
template void PciFunction::Write<uint8_t>(uint16_t, uint8_t) const;
template void PciFunction::Write<uint16_t>(uint16_t, uint16_t) const;
template void PciFunction::Write<uint32_t>(uint16_t, uint32_t) const;

void PciFunction::SetCommandBits(uint16_t bits) const {
  Write<uint16_t>(kPciCommand, Read<uint16_t>(kPciCommand) | bits);
}

void PciFunction::ClearCommandBits(uint16_t bits) const {
  Write<uint16_t>(kPciCommand, Read<uint16_t>(kPciCommand) & static_cast<uint16_t>(~bits));
}

uint16_t PciFunction::FindCapability(uint8_t id, uint32_t nth) const {
  if ((Read<uint16_t>(kPciStatus) & kStatusCapabilities) == 0) return 0;
  uint16_t at = Read<uint8_t>(kPciCapabilityPointer) & 0xfc;
  // 48 capabilities fill the space: more means a loop.
  for (int hops = 0; at != 0; ++hops) {
    if (hops == 48) Fail("the capability list is a loop");
    if (Read<uint8_t>(at) == id && nth-- == 0) return at;
    at = Read<uint8_t>(static_cast<uint16_t>(at + 1)) & 0xfc;
  }
  return 0;
}

PciFunction::Bar PciFunction::ReadBar(uint32_t index) const {
  const uint16_t offset = static_cast<uint16_t>(kPciFirstBar + 4 * index);
  const uint16_t command = Read<uint16_t>(kPciCommand);
  Write<uint16_t>(kPciCommand, command & static_cast<uint16_t>(~3));
  const uint32_t low = Read<uint32_t>(offset);
  Write<uint32_t>(offset, 0xffffffff);
  const uint32_t low_mask = Read<uint32_t>(offset);
  Write<uint32_t>(offset, low);

  Bar bar;
  bar.is_port = (low_mask & kBarPort) != 0;
  bar.is_64bit = !bar.is_port && (low_mask & kBar64Bit) != 0;
  bar.is_prefetchable = !bar.is_port && (low_mask & kBarPrefetchable) != 0;
  const uint32_t flags = bar.is_port ? 0x3 : 0xf;
  uint64_t mask = 0xffffffff00000000 | (low_mask & ~flags);
  bar.address = low & ~flags;
  if (bar.is_64bit) {
    const uint16_t high_offset = static_cast<uint16_t>(offset + 4);
    const uint32_t high = Read<uint32_t>(high_offset);
    Write<uint32_t>(high_offset, 0xffffffff);
    mask = (uint64_t{Read<uint32_t>(high_offset)} << 32) | (low_mask & ~flags);
    Write<uint32_t>(high_offset, high);
    bar.address |= uint64_t{high} << 32;
  }
  Write<uint16_t>(kPciCommand, command);
  bar.size_bytes = low_mask == 0 ? 0 : ~mask + 1;
  if (bar.is_port || bar.size_bytes == 0) return bar;
  if (bar.address == 0) {
    bar.address = ChooseAddress(bar.size_bytes);
    MoveBar(index, bar.address);
  }
  if (bar.address >= uint64_t{1} << 32 && !MapDeviceMemory(bar.address, bar.size_bytes)) {
    Fail("BAR ", index, " at ", Hex(bar.address), " cannot be mapped");
  }
  return bar;
}

void PciFunction::MoveBar(uint32_t index, uint64_t address) const {
  const uint16_t offset = static_cast<uint16_t>(kPciFirstBar + 4 * index);
  const uint16_t command = Read<uint16_t>(kPciCommand);
  const bool is_64bit = (Read<uint32_t>(offset) & kBar64Bit) != 0;
  Write<uint16_t>(kPciCommand, command & static_cast<uint16_t>(~3));
  Write<uint32_t>(offset, static_cast<uint32_t>(address));
  if (is_64bit) {
    Write<uint32_t>(static_cast<uint16_t>(offset + 4), static_cast<uint32_t>(address >> 32));
  }
  Write<uint16_t>(kPciCommand, command);
}

PciFunction FindFunction(uint16_t vendor, uint16_t device) {
  const uint32_t wanted = (uint32_t{device} << 16) | vendor;
  for (uint8_t slot = 0; slot < 32; ++slot) {
    const PciFunction function(slot, 0);
    if (function.Read<uint32_t>(kPciVendorId) == wanted) return function;
  }
  Fail("no PCI function ", Hex(vendor), ":", Hex(device));
}

PciFunction FunctionFromOption(uint16_t vendor, uint16_t device) {
  return FindFunction(static_cast<uint16_t>(NumberOption("vendor", vendor)),
                      static_cast<uint16_t>(NumberOption("device", device)));
}

Msix::Msix(const PciFunction& function)
    : function_(function), capability_(function.FindCapability(kCapabilityMsix)) {
  if (capability_ == 0) Fail("no MSI-X capability");
  const auto at = [this](uint16_t offset) { return static_cast<uint16_t>(capability_ + offset); };
  vectors_ = (function_.Read<uint16_t>(at(kMsixControl)) & kMsixSizeMask) + 1u;
  const uint32_t table = function_.Read<uint32_t>(at(kMsixTable));
  const uint32_t pending = function_.Read<uint32_t>(at(kMsixPending));
  table_ = function_.ReadBar(table & 7).address + (table & ~7u);
  pending_ = function_.ReadBar(pending & 7).address + (pending & ~7u);
  function_.SetCommandBits(kCommandMemory | kCommandBusMaster);
}

void Msix::Route(uint32_t index, uint32_t cpu, uint8_t vector) const {
  const uint64_t entry = table_ + index * kMsixEntryBytes;
  const uint64_t address = MsiAddress(ApicId(cpu));
  MmioWrite<uint32_t>(entry + kEntryAddress, static_cast<uint32_t>(address));
  MmioWrite<uint32_t>(entry + kEntryAddress + 4, static_cast<uint32_t>(address >> 32));
  MmioWrite<uint32_t>(entry + kEntryData, vector);
}

void Msix::SetMasked(uint32_t index, bool masked) const {
  MmioWrite<uint32_t>(table_ + index * kMsixEntryBytes + kEntryControl, masked ? 1 : 0);
}

bool Msix::IsPending(uint32_t index) const {
  return (MmioRead<uint64_t>(pending_ + index / 64 * 8) >> (index % 64) & 1) != 0;
}

void Msix::SetEnabled(bool enabled) const { SetControlBit(kMsixEnable, enabled); }
void Msix::SetFunctionMasked(bool masked) const { SetControlBit(kMsixFunctionMask, masked); }

void Msix::SetControlBit(uint16_t bit, bool value) const {
  const uint16_t offset = static_cast<uint16_t>(capability_ + kMsixControl);
  const uint16_t control = function_.Read<uint16_t>(offset);
  function_.Write<uint16_t>(offset, value ? control | bit : control & static_cast<uint16_t>(~bit));
}

}  // namespace bulkhead::guest
