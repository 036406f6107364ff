#ifndef BULKHEAD_VMM_PCI_HOST_BRIDGE_H_
#define BULKHEAD_VMM_PCI_HOST_BRIDGE_H_

#include <stdint.h>

#include "vmm/pci/config_registers.h"
#include "vmm/pci/config_space.h"

namespace bulkhead::vmm {

// The configuration space of slot 0. Guests recognise a PCI bus by it: Linux's test of
// configuration mechanism #1 looks for its class. It has no registers to program. Its ids are those
// that QEMU's documentation reserves for a generic host bridge (1b36:0008): no guest has a quirk
// for it, as guests have for the chipsets of real boards. Immutable, so thread-safe.
class HostBridge final : public ConfigSpace {
 public:
  HostBridge();

  uint32_t ReadConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes) override;
  void WriteConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes, uint32_t value) override;

 private:
  ConfigRegisters registers_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_HOST_BRIDGE_H_
