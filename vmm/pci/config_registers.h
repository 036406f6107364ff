#ifndef BULKHEAD_VMM_PCI_CONFIG_REGISTERS_H_
#define BULKHEAD_VMM_PCI_CONFIG_REGISTERS_H_

#include <stdint.h>

#include <array>

#include "vmm/device/pci_registers.h"

namespace bulkhead::vmm {

// The first 256 bytes of a configuration space as plain memory with a mask of writable bits. The
// function interprets the bits. Thread-compatible.
class ConfigRegisters {
 public:
  // `size_bytes` 1 to 4. Bytes outside the 256 read as 0 and ignore writes.
  uint32_t Get(uint16_t offset, uint8_t size_bytes) const;
  // Sets the bits, regardless of the mask.
  void Set(uint16_t offset, uint8_t size_bytes, uint32_t value);
  // Lets the guest change exactly the bits of `mask`.
  void MakeWritable(uint16_t offset, uint8_t size_bytes, uint32_t mask);
  // A write by the guest. True if it changed a bit.
  bool Write(uint16_t offset, uint8_t size_bytes, uint32_t value);

 private:
  std::array<uint8_t, pci::kConventionalConfigBytes> bytes_{};
  std::array<uint8_t, pci::kConventionalConfigBytes> writable_{};
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_CONFIG_REGISTERS_H_
