#include "vmm/hardware/device_places.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "vmm/acpi/acpi_registers.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

struct TakenPorts {
  uint32_t begin = 0;
  uint32_t end = 0;
  const DevicePlace* owner = nullptr;  // null: the vmm
};

std::string Title(const DevicePlace& place) {
  return absl::StrCat("device '", place.name, "' (", place.binary, ")");
}

absl::Status CheckPorts(const DevicePlace& place, std::vector<TakenPorts>& taken) {
  for (const DeviceDescription::PortRange& range : place.description->platform->port_ranges) {
    const TakenPorts ports = {range.base, uint32_t{range.base} + range.size, &place};
    for (const TakenPorts& other : taken) {
      if (ports.begin >= other.end || ports.end <= other.begin) continue;
      const std::string what = absl::StrFormat("%s: its ports 0x%x to 0x%x are used by ",
                                               Title(place), ports.begin, ports.end - 1);
      if (other.owner == nullptr) return absl::InternalError(what + "the vmm");
      return absl::InvalidArgumentError(absl::StrCat(what, Title(*other.owner)));
    }
    taken.push_back(ports);
  }
  return absl::OkStatus();
}

}  // namespace

DevicePlace DevicePlace::Of(const DeviceSpec& spec) {
  return {.name = spec.name, .binary = spec.binary.path(), .pci_slot = spec.pci_slot};
}

absl::Status CheckPlaces(absl::Span<const DevicePlace> places) {
  constexpr uint32_t kPciConfigPorts = 8;
  std::vector<TakenPorts> ports = {
      {layout::kAcpiPort, layout::kAcpiPort + uint32_t{AcpiRegisters::kPortCount}},
      {layout::kPciConfigAddress, layout::kPciConfigAddress + kPciConfigPorts}};
  std::vector<const DevicePlace*> irqs(16);
  for (const DevicePlace& place : places) {
    if (!place.description->platform.has_value()) continue;
    if (place.pci_slot != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(Title(place), ": pci_slot: ", place.pci_slot,
                       " is given for a device that is not on the PCI bus; leave it out"));
    }
    RETURN_IF_ERROR(CheckPorts(place, ports));
    const uint8_t irq = place.description->platform->irq;
    if (irq == 0) continue;
    const DevicePlace*& owner = irqs.at(irq);
    if (owner != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(Title(place), ": its IRQ ", irq,
                                                     " is used by ", Title(*owner),
                                                     "; ISA devices cannot share an interrupt"));
    }
    owner = &place;
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
