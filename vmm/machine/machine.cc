#include "vmm/machine/machine.h"

#include <thread>

#include "absl/memory/memory.h"
#include "base/status_macros.h"
#include "vmm/machine/boot_sources.h"
#include "vmm/platform/device_places.h"

namespace bulkhead::vmm {
namespace {

// The vmm or its host failed: whatever code the layer below had for it.
absl::Status AsVmmError(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  return absl::InternalError(status.message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(VmSpec spec) {
  ASSIGN_OR_RETURN(BootSources sources, OpenBootSources(spec));
  ASSIGN_OR_RETURN(GuestRam ram, GuestRam::Create(spec.memory_bytes));
  Settings settings = {.name = spec.name,
                       .kernel_path = spec.kernel_path,
                       .initrd_path = spec.initrd_path,
                       .cpus = spec.cpus,
                       .reboot_on_reset = spec.reboot_on_reset,
                       .reboot_on_crash = spec.reboot_on_crash,
                       .pci_slots = {}};
  std::vector<DevicePlace> places;
  for (const DeviceSpec& device : spec.devices) {
    settings.pci_slots.push_back(device.pci_slot);
    places.push_back(DevicePlace::Of(device));
  }
  std::unique_ptr<Machine> machine =
      absl::WrapUnique(new Machine(std::move(settings), std::move(ram), std::move(sources)));
  ASSIGN_OR_RETURN(machine->work_, WorkQueue::Create());
  ASSIGN_OR_RETURN(machine->end_, VmEndLatch::Create());
  ASSIGN_OR_RETURN(machine->monitor_, ProcessMonitor::Create());
  ASSIGN_OR_RETURN(machine->consoles_, Consoles::Create(spec.devices));

  // Device processes start while this thread sets KVM up: neither needs the other.
  absl::StatusOr<std::vector<std::unique_ptr<DeviceSupervisor>>> devices;
  std::thread starter([&] {
    SupervisorOptions options;
    options.vcpus = spec.cpus;
    options.events = &machine->events_;
    options.park = [m = machine.get()](Requester vcpu) { return m->ParkWhilePaused(vcpu); };
    options.pause_vm = [m = machine.get()](absl::string_view name) { m->PauseForDevice(name); };
    options.hold_vm = [m = machine.get()](absl::string_view name, bool hold) {
      m->HoldForDevice(name, hold);
    };
    options.resume_vm = [m = machine.get()](absl::string_view name) { m->ResumeForDevice(name); };
    devices = StartDevices(std::move(spec.devices), machine->ram_, *machine->monitor_, options);
  });
  absl::StatusOr<std::unique_ptr<GuestPlatform>> platform = machine->OpenKvm();
  starter.join();
  RETURN_IF_ERROR(AsVmmError(platform.status()));
  RETURN_IF_ERROR(devices.status());
  machine->devices_ = *std::move(devices);
  for (size_t i = 0; i < places.size(); ++i) {
    places[i].description = &machine->devices_[i]->device().description();
  }
  RETURN_IF_ERROR(CheckPlaces(places));
  RETURN_IF_ERROR(machine->PowerOn(*std::move(platform)));
  return machine;
}

Machine::Machine(Settings settings, GuestRam ram, BootSources boot_sources)
    : settings_(std::move(settings)),
      state_(events_),
      ram_(std::move(ram)),
      boot_sources_(std::move(boot_sources)) {}

Machine::~Machine() { EndAll(); }

absl::StatusOr<std::unique_ptr<GuestPlatform>> Machine::OpenKvm() {
  ASSIGN_OR_RETURN(Kvm kvm, Kvm::Open());
  kvm_ = std::make_unique<Kvm>(std::move(kvm));
  return GuestPlatform::Create(*kvm_, ram_);
}

absl::Status Machine::PowerOn(std::unique_ptr<GuestPlatform> platform) {
  std::vector<RemoteDevice*> devices;
  for (const auto& device : devices_) devices.push_back(&device->device());
  RETURN_IF_ERROR(platform->Plug(devices, settings_.pci_slots));
  const AccessWaits waits = {.cancel =
                                 [this] {
                                   for (const auto& d : devices_) d->device().CancelAccesses();
                                 },
                             .resume =
                                 [this] {
                                   for (const auto& d : devices_) d->device().ResumeAccesses();
                                 }};
  RETURN_IF_ERROR(platform->Load(boot_sources_, settings_.cpus, waits));
  absl::MutexLock lock(&platform_mutex_);
  platform_ = std::move(platform);
  if (std::exchange(kept_press_, false)) platform_->PressPowerButton();
  return absl::OkStatus();
}

GuestPlatform* Machine::platform() const {
  absl::MutexLock lock(&platform_mutex_);
  return platform_.get();
}

bool Machine::ParkWhilePaused(Requester requester) {
  // Only a vCPU may look at the platform without a lock.
  if (requester >= settings_.cpus) return false;
  return platform()->vcpus().ParkWhilePaused(requester);
}

}  // namespace bulkhead::vmm
