#ifndef BULKHEAD_VMM_PCI_CONFIG_SPACE_H_
#define BULKHEAD_VMM_PCI_CONFIG_SPACE_H_

#include <stdint.h>

#include "vmm/memory/io_handler.h"

namespace bulkhead::vmm {

// The configuration space of one PCI function, for both configuration mechanisms. Thread-safe: any
// vCPU thread may call. May block until the device's access timeout, and then holds nothing that
// an access to another function needs.
class ConfigSpace {
 public:
  virtual ~ConfigSpace() = default;

  // `size_bytes` is 1 to 4 (3 as part of a misaligned access), and the access lies within one
  // aligned dword of the 4096 bytes. Unused upper bits of the result are 0.
  virtual uint32_t ReadConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes) = 0;
  virtual void WriteConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes, uint32_t value) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_CONFIG_SPACE_H_
