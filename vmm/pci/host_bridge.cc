#include "vmm/pci/host_bridge.h"

#include "vmm/device/pci_registers.h"

namespace bulkhead::vmm {
namespace {

constexpr uint16_t kVendor = 0x1b36;
constexpr uint16_t kDevice = 0x0008;
constexpr uint32_t kClass = 0x060000;  // bridge, host bridge

}  // namespace

HostBridge::HostBridge() {
  registers_.Set(pci::kVendorId, 2, kVendor);
  registers_.Set(pci::kDeviceId, 2, kDevice);
  registers_.Set(pci::kClassCode, 3, kClass);
}

uint32_t HostBridge::ReadConfig(Waiter, uint16_t offset, uint8_t size_bytes) {
  return registers_.Get(offset, size_bytes);
}

void HostBridge::WriteConfig(Waiter, uint16_t, uint8_t, uint32_t) {}

}  // namespace bulkhead::vmm
