#include "vmm/pci/config_registers.h"

namespace bulkhead::vmm {

uint32_t ConfigRegisters::Get(uint16_t offset, uint8_t size_bytes) const {
  uint32_t value = 0;
  for (uint32_t i = 0; i < size_bytes && offset + i < bytes_.size(); ++i) {
    value |= static_cast<uint32_t>(bytes_[offset + i]) << (8 * i);
  }
  return value;
}

void ConfigRegisters::Set(uint16_t offset, uint8_t size_bytes, uint32_t value) {
  for (uint32_t i = 0; i < size_bytes && offset + i < bytes_.size(); ++i) {
    bytes_[offset + i] = static_cast<uint8_t>(value >> (8 * i));
  }
}

void ConfigRegisters::MakeWritable(uint16_t offset, uint8_t size_bytes, uint32_t mask) {
  for (uint32_t i = 0; i < size_bytes && offset + i < writable_.size(); ++i) {
    writable_[offset + i] = static_cast<uint8_t>(mask >> (8 * i));
  }
}

bool ConfigRegisters::Write(uint16_t offset, uint8_t size_bytes, uint32_t value) {
  bool changed = false;
  for (uint32_t i = 0; i < size_bytes && offset + i < bytes_.size(); ++i) {
    uint8_t& byte = bytes_[offset + i];
    const uint8_t writable = writable_[offset + i];
    const uint8_t written = static_cast<uint8_t>(value >> (8 * i));
    const uint8_t result = static_cast<uint8_t>((byte & ~writable) | (written & writable));
    changed |= result != byte;
    byte = result;
  }
  return changed;
}

}  // namespace bulkhead::vmm
