#include "vmm/pci/config_mechanisms.h"

#include "base/access_mask.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kDataOffset = 4;  // of CONFIG_DATA, from CONFIG_ADDRESS
constexpr uint32_t kEnable = 1u << 31;
constexpr uint32_t kAddressBits = 0x80fffffc;  // the others read as 0

// CONFIG_ADDRESS: enable, 7 reserved bits, bus, device, function, dword, 2 zero bits.
ConfigAddress DecodeConfigAddress(uint32_t address, uint64_t byte_in_data) {
  return {.bus = static_cast<uint8_t>(address >> 16),
          .device = static_cast<uint8_t>((address >> 11) & 31),
          .function = static_cast<uint8_t>((address >> 8) & 7),
          .offset = static_cast<uint16_t>((address & 0xfc) + byte_in_data)};
}

ConfigAddress DecodeEcamOffset(uint64_t offset) {
  return {.bus = static_cast<uint8_t>(offset >> 20),
          .device = static_cast<uint8_t>((offset >> 15) & 31),
          .function = static_cast<uint8_t>((offset >> 12) & 7),
          .offset = static_cast<uint16_t>(offset & 0xfff)};
}

// The bytes of a port access that fall on CONFIG_ADDRESS; the rest fall on CONFIG_DATA.
uint8_t BytesBeforeData(uint64_t offset, uint8_t size_bytes) {
  if (offset >= kDataOffset) return 0;
  return static_cast<uint8_t>(kDataOffset - offset < size_bytes ? kDataOffset - offset
                                                                : size_bytes);
}

}  // namespace

uint32_t ConfigPorts::address() const {
  absl::MutexLock lock(&mutex_);
  return address_;
}

uint64_t ConfigPorts::Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) {
  const uint32_t address = this->address();
  if (offset == 0 && size_bytes == 4) return address;
  const uint8_t before = BytesBeforeData(offset, size_bytes);
  if (before == size_bytes || (address & kEnable) == 0) return AccessMask(size_bytes);
  const ConfigAddress data = DecodeConfigAddress(address, offset + before - kDataOffset);
  const uint64_t value = bus_.Read(waiter, data, size_bytes - before);
  if (before == 0) return value;
  return value << (8 * before) | AccessMask(before);
}

void ConfigPorts::Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (offset == 0 && size_bytes == 4) {
    absl::MutexLock lock(&mutex_);
    address_ = static_cast<uint32_t>(value) & kAddressBits;
    return;
  }
  const uint32_t address = this->address();
  const uint8_t before = BytesBeforeData(offset, size_bytes);
  if (before == size_bytes || (address & kEnable) == 0) return;
  const ConfigAddress data = DecodeConfigAddress(address, offset + before - kDataOffset);
  bus_.Write(waiter, data, size_bytes - before, value >> (8 * before));
}

uint64_t Ecam::Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) {
  return bus_.Read(waiter, DecodeEcamOffset(offset), size_bytes);
}

void Ecam::Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  bus_.Write(waiter, DecodeEcamOffset(offset), size_bytes, value);
}

}  // namespace bulkhead::vmm
