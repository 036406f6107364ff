#include "vmm/machine/machine.h"

#include <algorithm>
#include <thread>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "vmm/acpi/acpi_tables.h"
#include "vmm/boot/boot.h"
#include "vmm/machine/pci_wiring.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kVcpuStopTimeout = absl::Seconds(5);

// The vmm or its host failed: whatever code the layer below had for it.
absl::Status AsVmmError(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  return absl::InternalError(status.message());
}

// What the user configured cannot be: whatever code the layer below had for it.
absl::Status AsConfigError(const absl::Status& status) {
  if (status.ok() || absl::IsInternal(status)) return status;
  return absl::InvalidArgumentError(status.message());
}

absl::StatusOr<BootSources> OpenBootSources(VmSpec& spec) {
  absl::StatusOr<BootFile> kernel =
      BootFile::FromFd(std::move(spec.kernel), "kernel.path", spec.kernel_path);
  if (!kernel.ok()) return kernel.status();
  BootSources sources{.kernel = *std::move(kernel)};
  if (spec.initrd.ok()) {
    ASSIGN_OR_RETURN(sources.initrd,
                     BootFile::FromFd(std::move(spec.initrd), "kernel.initrd", spec.initrd_path));
  }
  sources.command_line = spec.cmdline;
  return sources;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(VmSpec spec) {
  ASSIGN_OR_RETURN(GuestRam ram, GuestRam::Create(spec.memory_bytes));
  std::unique_ptr<Machine> machine = absl::WrapUnique(new Machine(std::move(ram)));
  ASSIGN_OR_RETURN(machine->end_, VmEndLatch::Create());
  ASSIGN_OR_RETURN(machine->monitor_, ProcessMonitor::Create());

  std::vector<uint32_t> wanted_slots;
  for (const DeviceSpec& device : spec.devices) wanted_slots.push_back(device.pci_slot);

  // Device processes start while this thread sets KVM up: neither needs the other.
  absl::StatusOr<std::vector<std::unique_ptr<RemoteDevice>>> devices;
  std::thread starter([&] {
    RemoteDeviceOptions options;
    options.vcpus = spec.cpus;
    options.on_failure = [](const DeviceFailure& failure) { LogError(failure.ToString()); };
    devices = StartDevices(std::move(spec.devices), machine->ram_, *machine->monitor_, options);
  });
  const absl::Status kvm = machine->OpenKvm();
  starter.join();
  RETURN_IF_ERROR(AsVmmError(kvm));
  RETURN_IF_ERROR(devices.status());
  machine->devices_ = *std::move(devices);

  RETURN_IF_ERROR(machine->PlugDevices(wanted_slots));
  RETURN_IF_ERROR(machine->Boot(spec));
  return machine;
}

Machine::~Machine() { Stop(); }

absl::Status Machine::OpenKvm() {
  ASSIGN_OR_RETURN(Kvm kvm, Kvm::Open());
  kvm_ = std::make_unique<Kvm>(std::move(kvm));
  ASSIGN_OR_RETURN(vm_, KvmVm::Create(*kvm_));
  RETURN_IF_ERROR(vm_->AddMemory(ram_));
  acpi_registers_ = std::make_unique<AcpiRegisters>(*end_);
  RETURN_IF_ERROR(
      port_bus_.Insert(layout::kAcpiPort, AcpiRegisters::kPortCount, acpi_registers_.get()));
  ASSIGN_OR_RETURN(pci_, PciHost::Create(memory_bus_, port_bus_, vm_->event_routing(),
                                         MmioWindows::ForHighStart(HighWindowStart())));
  return absl::OkStatus();
}

GuestAddress Machine::HighWindowStart() const {
  constexpr uint64_t kGibibyte = uint64_t{1} << 30;
  return std::max((ram_.end() + kGibibyte - 1) / kGibibyte * kGibibyte, layout::kMmio64MinStart);
}

absl::Status Machine::PlugDevices(const std::vector<uint32_t>& wanted_slots) {
  std::vector<uint32_t> wanted_by_pci;
  for (size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i]->description().pci.has_value()) wanted_by_pci.push_back(wanted_slots[i]);
  }
  ASSIGN_OR_RETURN(const std::vector<uint32_t> slots, PciHost::ChooseSlots(wanted_by_pci));
  size_t next_slot = 0;
  for (const std::unique_ptr<RemoteDevice>& device : devices_) {
    const DeviceDescription& description = device->description();
    if (!description.pci.has_value()) {
      RETURN_IF_ERROR(PlugPlatformDevice(*device));
      continue;
    }
    RETURN_IF_ERROR(
        pci_->AddFunction(slots[next_slot++],
                          MakeFunctionConfig(device->name(), description, device->endpoints()),
                          *device)
            .status());
  }
  return pci_->PlaceBars();
}

absl::Status Machine::PlugPlatformDevice(RemoteDevice& device) {
  const DeviceDescription::PlatformDevice& platform = *device.description().platform;
  for (size_t i = 0; i < platform.port_ranges.size(); ++i) {
    const DeviceDescription::PortRange& range = platform.port_ranges[i];
    port_regions_.push_back(std::make_unique<PortRegion>(device, static_cast<uint8_t>(i)));
    const absl::Status inserted =
        port_bus_.Insert(range.base, range.size, port_regions_.back().get());
    if (!inserted.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("device \"", device.name(), "\": its ports from 0x", absl::Hex(range.base),
                       " on are taken by another device or by the vmm: ", inserted.message()));
    }
  }
  if (platform.irq != 0) {
    for (const std::unique_ptr<RemoteDevice>& other : devices_) {
      const auto& there = other->description().platform;
      if (other.get() == &device) break;
      if (there.has_value() && there->irq == platform.irq) {
        return absl::InvalidArgumentError(
            absl::StrCat("device \"", device.name(), "\": IRQ ", platform.irq,
                         " is that of device \"", other->name(), "\"; an edge cannot be shared"));
      }
    }
    RETURN_IF_ERROR(vm_->event_routing().BindIrq(platform.irq, device.endpoints().intx_fd(),
                                                 /*resample_fd=*/-1));
  }
  return BindPlatformDoorbells(device);
}

absl::Status Machine::BindPlatformDoorbells(RemoteDevice& device) {
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

absl::Status Machine::Boot(VmSpec& spec) {
  AcpiDescription acpi{.vcpus = spec.cpus, .high_window_start = HighWindowStart()};
  for (const std::unique_ptr<RemoteDevice>& device : devices_) {
    const auto& platform = device->description().platform;
    if (!platform.has_value()) continue;
    AcpiPlatformDevice& told = acpi.platform_devices.emplace_back();
    told.name = device->name();
    told.acpi_hid = platform->acpi_hid;
    for (const DeviceDescription::PortRange& range : platform->port_ranges) {
      told.port_ranges.push_back({.base = range.base, .size = range.size});
    }
    told.irq = platform->irq;
  }
  ASSIGN_OR_RETURN(const GuestAddress rsdp, WriteAcpiTables(acpi, ram_.memory()));

  absl::StatusOr<BootSources> sources = OpenBootSources(spec);
  if (!sources.ok()) return AsConfigError(sources.status());
  const absl::StatusOr<InitialCpuState> first = PrepareBoot(*sources, rsdp, ram_.memory());
  if (!first.ok()) return AsConfigError(first.status());

  if (spec.cpus > kvm_->max_vcpus()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cpus: ", spec.cpus, " are more than this host's KVM has: ", kvm_->max_vcpus()));
  }
  absl::StatusOr<std::vector<std::unique_ptr<Vcpu>>> vcpus = vm_->CreateVcpus(spec.cpus, *first);
  if (!vcpus.ok()) return AsVmmError(vcpus.status());
  const AccessWaits waits = {.cancel =
                                 [this] {
                                   for (const auto& device : devices_) device->CancelAccesses();
                                 },
                             .resume =
                                 [this] {
                                   for (const auto& device : devices_) device->ResumeAccesses();
                                 }};
  vcpus_ = std::make_unique<VcpuThreads>(*std::move(vcpus), memory_bus_, port_bus_, *end_, waits);
  return absl::OkStatus();
}

absl::Status Machine::Start() { return vcpus_->Start(); }

VmEnd Machine::Stop() {
  if (vcpus_ != nullptr) {
    if (const absl::Status status = vcpus_->Stop(kVcpuStopTimeout); !status.ok()) {
      LogError(status.message());
    }
  }
  for (const std::unique_ptr<RemoteDevice>& device : devices_) device->AskToStop();
  for (const std::unique_ptr<RemoteDevice>& device : devices_) device->Stop();
  return ended() ? end_->end() : VmEnd{EndReason::kVmmError, "stopped before it ended"};
}

}  // namespace bulkhead::vmm
