// Fuzzes the validation of a device's description. An input is a DeviceInfo, serialised or (as in
// description_corpus/) in text format.
#include <stddef.h>
#include <stdint.h>

#include <string>

#include "base/testing/fuzz_input.h"
#include "google/protobuf/text_format.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"
#include "proto/durable_layout.h"
#include "vmm/device/device_description.h"

namespace bulkhead::vmm {
namespace {

// Checks the invariants that the rest of the vmm relies on.
void Check(const DeviceDescription& device) {
  Require(device.pci.has_value() != device.platform.has_value());
  uint64_t region_sizes[8] = {};
  if (device.pci.has_value()) {
    uint32_t used = 0;
    for (const DeviceDescription::Bar& bar : device.pci->bars) {
      Require(bar.index < 6 && bar.size_bytes >= 16 && bar.size_bytes <= (1 << 30));
      Require((bar.size_bytes & (bar.size_bytes - 1)) == 0);
      const uint32_t mask = (bar.is_64bit ? 3u : 1u) << bar.index;
      Require((used & mask) == 0 && mask < (1u << 6));
      used |= mask;
      region_sizes[bar.index] = bar.size_bytes;
    }
    Require(device.pci->msix_vectors <= 2048);
    Require(device.pci->msix_vectors == 0 || used != 0x3f);
    size_t config_bytes = device.pci->msix_vectors != 0 ? 12 : 0;
    for (const DeviceDescription::Capability& capability : device.pci->capabilities) {
      config_bytes += (capability.body.size() + 2 + 3) / 4 * 4;
    }
    Require(config_bytes <= 192);
  } else {
    Require(device.platform->port_ranges.size() <= 8 && device.platform->irq < 16);
    for (size_t i = 0; i < device.platform->port_ranges.size(); ++i) {
      const DeviceDescription::PortRange& range = device.platform->port_ranges[i];
      Require(range.size != 0 && uint32_t{range.base} + range.size <= 0x10000);
      region_sizes[i] = range.size;
    }
  }
  Require(device.saved_state_bytes <= kMaxSavedStateBytes);
  Require(device.durable_memory_bytes <= kMaxDurableMemoryBytes);
  for (const DeviceDescription::Doorbell& doorbell : device.doorbells) {
    Require(doorbell.region < 8 && doorbell.offset < region_sizes[doorbell.region]);
    Require(doorbell.size_bytes <= region_sizes[doorbell.region] - doorbell.offset);
  }
}

}  // namespace
}  // namespace bulkhead::vmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  google::protobuf::SetLogHandler(nullptr);
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  bulkhead::v1::DeviceInfo info;
  if (!google::protobuf::TextFormat::ParseFromString(bytes, &info) &&
      !info.ParseFromString(bytes)) {
    return 0;
  }
  info.set_contract_version(bulkhead::kContractVersion);
  const absl::StatusOr<bulkhead::vmm::DeviceDescription> device =
      bulkhead::vmm::ValidateDeviceInfo(info);
  if (device.ok()) bulkhead::vmm::Check(*device);
  return 0;
}
