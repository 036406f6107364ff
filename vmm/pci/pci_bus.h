#ifndef BULKHEAD_VMM_PCI_PCI_BUS_H_
#define BULKHEAD_VMM_PCI_PCI_BUS_H_

#include <stdint.h>

#include <array>

#include "absl/status/status.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/pci/config_space.h"

namespace bulkhead::vmm {

// The target of a configuration access ([PCIe] 7.2.1).
struct ConfigAddress {
  uint8_t bus = 0;
  uint8_t device = 0;    // 0 to 31
  uint8_t function = 0;  // 0 to 7
  uint16_t offset = 0;   // 0 to 4095
};

// Bus 0: slots 0 to 31 with one function each, function 0. All other functions are absent: they
// read as all ones and drop writes ([PCI] 6.1: a master abort).
//
// Call Add() only before the vCPUs run. Afterwards the slots do not change, so accesses are
// thread-safe and take no lock. Functions are borrowed and must outlive the last access.
class PciBus {
 public:
  // Errors: InvalidArgument (no such slot), AlreadyExists (the slot is in use).
  absl::Status Add(uint32_t slot, ConfigSpace* function);

  // An access of 1, 2, 4 or 8 bytes at any alignment. It is split at dword boundaries: an access
  // across the end of a function's space reaches the next function's.
  uint64_t Read(Waiter waiter, ConfigAddress address, uint8_t size_bytes) const;
  void Write(Waiter waiter, ConfigAddress address, uint8_t size_bytes, uint64_t value) const;

 private:
  ConfigSpace* FunctionAt(const ConfigAddress& address) const;

  std::array<ConfigSpace*, layout::kMaxPciSlots> slots_{};
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_PCI_BUS_H_
