#include "vmm/hardware/guest_hardware.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "vmm/acpi/acpi_tables.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/vcpu/thread_times.h"

namespace bulkhead::vmm {
namespace {

// The error for a device whose description cannot be fulfilled. Not InvalidArgument, which means a
// mistake in the configuration.
absl::Status DeviceError(const RemoteDevice& device, const absl::Status& why) {
  const absl::StatusCode code = absl::IsResourceExhausted(why)
                                    ? absl::StatusCode::kResourceExhausted
                                    : absl::StatusCode::kInternal;
  return absl::Status(code, absl::StrCat(device.title(), ": ", why.message()));
}

// `device` must be on the PCI bus. It keeps its descriptors.
FunctionSpec FunctionSpecOf(const RemoteDevice& device) {
  const DeviceDescription& description = device.description();
  const DeviceEndpoints& endpoints = device.endpoints();
  FunctionSpec spec = {.name = device.name(),
                       .function = *description.pci,
                       .doorbells = description.doorbells,
                       .msix_event_fds = {},
                       .intx = {},
                       .doorbell_event_fds = {}};
  for (const EventFd& event : endpoints.msix_vectors()) spec.msix_event_fds.push_back(event.fd());
  for (const EventFd& event : endpoints.doorbells()) {
    spec.doorbell_event_fds.push_back(event.fd());
  }
  if (description.pci->has_intx) {
    spec.intx = {.event_fd = endpoints.intx_fd(), .resample_fd = endpoints.intx_resample_fd()};
  }
  return spec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GuestHardware>> GuestHardware::Create(const Kvm& kvm,
                                                                     const GuestRam& ram) {
  std::unique_ptr<GuestHardware> hardware = absl::WrapUnique(new GuestHardware(kvm, ram));
  ASSIGN_OR_RETURN(hardware->end_, VmEndLatch::Create());
  ASSIGN_OR_RETURN(hardware->vm_, KvmVm::Create(kvm));
  EventRouting& routing = hardware->vm_->event_routing();
  ASSIGN_OR_RETURN(hardware->sci_, SciLine::Create(routing));
  hardware->acpi_registers_ = std::make_unique<AcpiRegisters>(
      *hardware->end_, [sci = hardware->sci_.get()] { sci->Raise(); });
  RETURN_IF_ERROR(hardware->port_bus_.Insert(layout::kAcpiPort, AcpiRegisters::kPortCount,
                                             hardware->acpi_registers_.get()));
  ASSIGN_OR_RETURN(hardware->pci_,
                   PciHost::Create(hardware->memory_bus_, hardware->port_bus_, routing,
                                   MmioWindows::ForHighStart(hardware->HighWindowStart())));
  return hardware;
}

GuestAddress GuestHardware::HighWindowStart() const {
  constexpr uint64_t kGibibyte = uint64_t{1} << 30;
  return std::max((ram_.end() + kGibibyte - 1) / kGibibyte * kGibibyte, layout::kMmio64MinStart);
}

absl::Status GuestHardware::Plug(absl::Span<RemoteDevice* const> devices,
                                 absl::Span<const uint32_t> pci_slots) {
  std::vector<uint32_t> requested;
  for (size_t i = 0; i < devices.size(); ++i) {
    if (devices[i]->description().pci.has_value()) requested.push_back(pci_slots[i]);
  }
  ASSIGN_OR_RETURN(const std::vector<uint32_t> slots, PciHost::ChooseSlots(requested));
  for (RemoteDevice* const device : devices) {
    const DeviceDescription& description = device->description();
    if (!description.pci.has_value()) {
      if (const absl::Status plugged = PlugPlatformDevice(*device); !plugged.ok()) {
        return DeviceError(*device, plugged);
      }
      continue;
    }
    const uint32_t slot = slots[functions_.size()];
    const absl::StatusOr<const DeviceFunction*> function =
        pci_->AddFunction(slot, FunctionSpecOf(*device), *device);
    if (!function.ok()) return DeviceError(*device, function.status());
    functions_.push_back({.device = device, .slot = slot, .function = *function});
  }
  return pci_->PlaceBars();
}

absl::Status GuestHardware::PlugPlatformDevice(RemoteDevice& device) {
  const DeviceDescription::PlatformDevice& platform = *device.description().platform;
  for (size_t i = 0; i < platform.port_ranges.size(); ++i) {
    const DeviceDescription::PortRange& range = platform.port_ranges[i];
    port_regions_.push_back(std::make_unique<DeviceRegion>(device, static_cast<uint8_t>(i),
                                                           DeviceRegion::Writes::kNonPosted));
    RETURN_IF_ERROR(port_bus_.Insert(range.base, range.size, port_regions_.back().get()));
  }
  if (platform.irq != 0) {
    RETURN_IF_ERROR(vm_->event_routing().BindIrq(platform.irq, device.endpoints().intx_fd(),
                                                 /*resample_fd=*/-1));
  }
  platform_devices_.push_back(&device);
  return BindPlatformDoorbells(device);
}

absl::Status GuestHardware::BindPlatformDoorbells(RemoteDevice& device) {
  const DeviceDescription& description = device.description();
  for (size_t i = 0; i < description.doorbells.size(); ++i) {
    const DeviceDescription::Doorbell& doorbell = description.doorbells[i];
    const uint64_t port = description.platform->port_ranges[doorbell.region].base + doorbell.offset;
    RETURN_IF_ERROR(vm_->event_routing().BindDoorbell(EventRouting::Space::kPort, port,
                                                      doorbell.size_bytes,
                                                      device.endpoints().doorbells()[i].fd()));
  }
  return absl::OkStatus();
}

absl::Status GuestHardware::Load(const BootSources& sources, uint32_t vcpus, WaitControl waits,
                                 const std::function<absl::Status()>& confine_vcpu) {
  // Not in Create(): for some 8 ms after a VM was made, KVM lets its first memory slot wait.
  RETURN_IF_ERROR(vm_->AddMemory(ram_));
  AcpiDescription acpi{.vcpus = vcpus, .high_window_start = HighWindowStart()};
  for (const RemoteDevice* const device : platform_devices_) {
    acpi.platform_devices.push_back(
        {.name = device->name(), .device = *device->description().platform});
  }
  ASSIGN_OR_RETURN(const GuestAddress rsdp, WriteAcpiTables(acpi, ram_.memory()));
  const absl::StatusOr<InitialCpuState> first = PrepareBoot(sources, rsdp, ram_.memory());
  if (absl::IsInternal(first.status())) return first.status();
  if (!first.ok()) return absl::InvalidArgumentError(first.status().message());

  if (vcpus > kvm_.max_vcpus()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpus: ", vcpus, " is out of range (this KVM: 1 to ", kvm_.max_vcpus(), ")"));
  }
  absl::StatusOr<std::vector<std::unique_ptr<Vcpu>>> made = vm_->CreateVcpus(vcpus, *first);
  // The count is valid, so the configuration is not the cause.
  if (absl::IsInvalidArgument(made.status())) return absl::InternalError(made.status().message());
  RETURN_IF_ERROR(made.status());
  vcpus_ = std::make_unique<VcpuThreads>(*std::move(made), memory_bus_, port_bus_, *end_,
                                         std::move(waits), confine_vcpu);
  return absl::OkStatus();
}

void GuestHardware::StopClock() { vm_->clock().Stop(); }
void GuestHardware::ContinueClock() { vm_->clock().Continue(); }

std::vector<VcpuFigures> GuestHardware::DescribeVcpus() const {
  static constexpr absl::string_view kCounters[] = {
      "exits", "mmio_exits", "io_exits", "halt_exits", "irq_exits", "signal_exits", "halt_wait_ns"};
  const std::vector<std::optional<ThreadTimes>> times = vcpus_->Times();
  std::vector<VcpuFigures> figures(times.size());
  for (size_t i = 0; i < times.size(); ++i) {
    if (const auto counted = vm_->statistics()[i].Read(kCounters); counted.has_value()) {
      const std::vector<uint64_t>& values = *counted;
      figures[i].exits = {.all = values[0],
                          .mmio = values[1],
                          .port = values[2],
                          .halt = values[3],
                          .interrupt = values[4],
                          .signal = values[5],
                          .halted = absl::Nanoseconds(values[6])};
    }
    if (!times[i].has_value()) continue;
    figures[i].processor_time = times[i]->processor;
    figures[i].guest_time = times[i]->guest;
  }
  return figures;
}

void GuestHardware::Describe(const RemoteDevice& device, v1::Device& description) const {
  const DeviceDescription& own = device.description();
  const auto plugged = std::find_if(functions_.begin(), functions_.end(),
                                    [&](const auto& f) { return f.device == &device; });
  if (plugged == functions_.end()) return;
  const DeviceDescription::PciFunction& function = *own.pci;
  v1::PciPlace& place = *description.mutable_pci();
  place.set_address(absl::StrFormat("00:%02x.0", plugged->slot));
  place.set_vendor_id(function.vendor_id);
  place.set_device_id(function.device_id);
  place.set_class_code(function.class_code);
  place.set_revision_id(function.revision_id);
  place.set_subsystem_vendor_id(function.subsystem_vendor_id);
  place.set_subsystem_id(function.subsystem_id);
  place.set_msix_vectors(function.msix_vectors);
  place.set_has_intx(function.has_intx);
  const FunctionState state = plugged->function->state();
  place.set_msix_enabled(state.msix_enabled);
  place.set_bus_master(state.bus_master);
  for (const DeviceFunction::BarState& bar : plugged->function->bars()) {
    v1::BarPlace& reported = *place.add_bars();
    reported.set_index(bar.index);
    reported.set_address(bar.address);
    reported.set_size_bytes(bar.size_bytes);
    reported.set_is_64bit(bar.is_64bit);
    reported.set_decoded(bar.decoded);
    reported.set_owned_by_vmm(
        std::none_of(function.bars.begin(), function.bars.end(),
                     [&](const auto& own) { return own.index == bar.index; }));
  }
}

}  // namespace bulkhead::vmm
