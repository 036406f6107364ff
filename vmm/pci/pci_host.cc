#include "vmm/pci/pci_host.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "vmm/pci/bar_placement.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kHostBridgeSlot = 0;

}  // namespace

absl::StatusOr<std::unique_ptr<PciHost>> PciHost::Create(AddressSpace& memory, AddressSpace& ports,
                                                         EventRouting& routing,
                                                         const MmioWindows& windows) {
  std::unique_ptr<PciHost> host(new PciHost(memory, ports, routing, windows));
  RETURN_IF_ERROR(host->bus_.Add(kHostBridgeSlot, &host->host_bridge_));
  RETURN_IF_ERROR(memory.Insert(layout::kEcamStart, layout::kEcamSize, &host->ecam_));
  host->ecam_reachable_ = true;
  RETURN_IF_ERROR(
      ports.Insert(layout::kPciConfigAddress, ConfigPorts::kPortCount, &host->config_ports_));
  host->ports_reachable_ = true;
  return host;
}

PciHost::PciHost(AddressSpace& memory, AddressSpace& ports, EventRouting& routing,
                 const MmioWindows& windows)
    : memory_(memory),
      ports_(ports),
      routing_(routing),
      windows_(windows),
      decoder_(memory, routing, windows),
      config_ports_(bus_),
      ecam_(bus_) {}

PciHost::~PciHost() {
  // Removing an existing range does not fail.
  if (ports_reachable_) (void)ports_.Remove(layout::kPciConfigAddress);
  if (ecam_reachable_) (void)memory_.Remove(layout::kEcamStart);
}

absl::StatusOr<DeviceFunction*> PciHost::AddFunction(uint32_t slot, const FunctionSpec& spec,
                                                     DeviceAccess& device) {
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceFunction> function,
                   DeviceFunction::Create(
                       spec, slot, {.device = device, .routing = routing_, .decoder = decoder_}));
  RETURN_IF_ERROR(bus_.Add(slot, function.get()));
  functions_.push_back(std::move(function));
  return functions_.back().get();
}

absl::Status PciHost::PlaceBars() {
  struct Owner {
    DeviceFunction* function;
    uint8_t bar;
  };
  std::vector<Owner> owners;
  std::vector<BarRequest> requests;
  for (const std::unique_ptr<DeviceFunction>& function : functions_) {
    std::vector<BarRequest> own;
    for (const DeviceFunction::BarState& bar : function->bars()) {
      owners.push_back({function.get(), bar.index});
      own.push_back({.name = absl::StrCat("device ", function->name(), ": BAR ", bar.index),
                     .size_bytes = bar.size_bytes,
                     .is_64bit = bar.is_64bit});
    }
    requests.insert(requests.end(), own.begin(), own.end());
    // BARs that do not fit even alone are the device's fault, not the configuration's.
    if (const absl::Status alone = vmm::PlaceBars(windows_, own); !alone.ok()) {
      return absl::InternalError(alone.message());
    }
  }
  if (const absl::Status together = vmm::PlaceBars(windows_, requests); !together.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(together.message(), " beside the other devices; configure fewer devices"));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    owners[i].function->AssignBar(owners[i].bar, requests[i].address);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> PciHost::ChooseSlots(absl::Span<const uint32_t> requested) {
  std::array<bool, layout::kMaxPciSlots> taken{};
  taken[kHostBridgeSlot] = true;
  for (uint32_t slot : requested) {
    if (slot == 0) continue;
    if (slot >= taken.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("PCI slot ", slot, " is out of range (1 to ", taken.size() - 1, ")"));
    }
    if (std::exchange(taken[slot], true)) {
      return absl::AlreadyExistsError(absl::StrCat("PCI slot ", slot, " is configured twice"));
    }
  }
  std::vector<uint32_t> slots(requested.begin(), requested.end());
  uint32_t next = 0;
  for (uint32_t& slot : slots) {
    if (slot != 0) continue;
    while (next < taken.size() && taken[next]) ++next;
    if (next == taken.size()) {
      return absl::ResourceExhaustedError(
          absl::StrCat(requested.size(), " PCI devices, at most ", taken.size() - 1, " slots"));
    }
    taken[next] = true;
    slot = next;
  }
  return slots;
}

}  // namespace bulkhead::vmm
