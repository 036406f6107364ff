#ifndef BULKHEAD_VMM_PCI_CONFIG_MECHANISMS_H_
#define BULKHEAD_VMM_PCI_CONFIG_MECHANISMS_H_

#include <stdint.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/memory/io_handler.h"
#include "vmm/pci/pci_bus.h"

namespace bulkhead::vmm {

// Configuration mechanism #1 ([PCI] 3.2.2.3.2): eight ports from 0xcf8. CONFIG_ADDRESS accepts
// whole dwords only. A narrower or misaligned access to it is like one to an unused port (Linux
// probes for that with a byte at 0xcfb). CONFIG_DATA accepts any width and alignment while the
// enable bit is set.
//
// Thread-safe. As on hardware, all vCPUs share the address register: guests lock around the pair.
class ConfigPorts final : public IoHandler {
 public:
  static constexpr uint64_t kPortCount = 8;

  explicit ConfigPorts(const PciBus& bus) : bus_(bus) {}

  uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) override;
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override;

 private:
  uint32_t address() const;

  const PciBus& bus_;
  mutable absl::Mutex mutex_;  // never held during an access to a function
  uint32_t address_ ABSL_GUARDED_BY(mutex_) = 0;
};

// ECAM ([PCIe] 7.2.2): the configuration spaces of bus 0 as 1 MiB of memory.
// Thread-safe.
class Ecam final : public IoHandler {
 public:
  explicit Ecam(const PciBus& bus) : bus_(bus) {}

  uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) override;
  void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) override;

 private:
  const PciBus& bus_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_CONFIG_MECHANISMS_H_
