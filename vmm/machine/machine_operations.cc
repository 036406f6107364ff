// What the control plane may ask of the machine. See vm_operations.h for the threads.

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/channel/channel_client.h"
#include "proto/version.h"
#include "vmm/machine/machine.h"
#include "vmm/vm/vm_metrics.h"

namespace bulkhead::vmm {
namespace {

constexpr char kClient[] = "";

absl::Status Ending() { return absl::UnavailableError("the VM is ending"); }

}  // namespace

void Machine::QueueCommand(std::function<absl::Status()> work, Done done) {
  if (!work_->Add([work = std::move(work), done] { done(work()); })) done(Ending());
}

v1::VmStatus Machine::Status() const {
  v1::VmStatus status;
  state_.Describe(status);
  status.set_name(settings_.name);
  status.set_pid(getpid());
  status.set_vcpus(settings_.cpus);
  status.set_memory_bytes(ram_.size_bytes());
  status.set_kernel_path(settings_.kernel_path);
  status.set_initrd_path(settings_.initrd_path);
  status.set_cmdline(boot_sources_.command_line);
  status.set_version(VersionText());
  status.set_devices(static_cast<uint32_t>(devices_.size()));
  uint32_t running = 0;
  for (const auto& device : devices_) running += device->Describe().state() == v1::Device::RUNNING;
  status.set_devices_running(running);
  return status;
}

std::vector<v1::Device> Machine::Devices() const {
  std::vector<v1::Device> devices;
  for (const auto& device : devices_) devices.push_back(Describe(*device));
  return devices;
}

absl::StatusOr<v1::Device> Machine::Device(absl::string_view name) const {
  ASSIGN_OR_RETURN(DeviceSupervisor* const device, FindDevice(name));
  return Describe(*device);
}

absl::StatusOr<DeviceSupervisor*> Machine::FindDevice(absl::string_view name) const {
  for (const auto& device : devices_) {
    if (device->device().name() == name) return device.get();
  }
  return absl::NotFoundError(absl::StrCat("the VM has no device \"", name, "\""));
}

v1::Device Machine::Describe(DeviceSupervisor& device) const {
  v1::Device description = device.Describe();
  absl::MutexLock lock(&platform_mutex_);
  if (platform_ != nullptr) platform_->Describe(device.device(), description);
  return description;
}

absl::StatusOr<bool> Machine::PressPowerButton() {
  if (end_->reported()) return Ending();
  absl::MutexLock lock(&platform_mutex_);
  if (platform_ == nullptr) {  // the guest is rebooting
    kept_press_ = true;
    return false;
  }
  return platform_->PressPowerButton();
}

absl::Status Machine::Wake() {
  if (end_->reported()) return Ending();
  absl::MutexLock lock(&platform_mutex_);
  // A guest that reboots is awake.
  if (platform_ != nullptr) platform_->Wake();
  return absl::OkStatus();
}

absl::Status Machine::Stop(absl::string_view reason) {
  RequestEnd({EndReason::kStopped, std::string(reason)});
  return absl::OkStatus();
}

void Machine::Pause(Done done) {
  QueueCommand([this] { return AddPause(kClient, "paused by a client"); }, std::move(done));
}

void Machine::Resume(Done done) {
  QueueCommand([this] { return RemovePause(kClient); }, std::move(done));
}

v1::VmMetrics Machine::Metrics() const {
  std::vector<DeviceFigures> devices;
  for (const auto& device : devices_) {
    const RemoteDevice& remote = device->device();
    const channel::ChannelClient& channel = remote.endpoints().channel();
    devices.push_back({.description = device->Describe(),
                       .channel = channel.metrics(),
                       .device_report = channel.device_report(),
                       .timed_out_accesses = remote.timed_out_accesses(),
                       .dropped_accesses = remote.dropped_accesses(),
                       .model = device->Metrics()});
  }
  uint64_t unclaimed_accesses = 0;
  {
    absl::MutexLock lock(&platform_mutex_);
    if (platform_ != nullptr) unclaimed_accesses = platform_->unclaimed_accesses();
  }
  return MakeMetrics(Status(), unclaimed_accesses, devices);
}

void Machine::CommandDevice(absl::string_view name, Done done,
                            absl::FunctionRef<void(DeviceSupervisor&, Done)> command) {
  const absl::StatusOr<DeviceSupervisor*> device = FindDevice(name);
  if (device.ok()) {
    command(**device, std::move(done));
  } else {
    done(device.status());
  }
}

void Machine::RestartDevice(const v1::RestartDeviceRequest& request, Done done) {
  CommandDevice(request.name(), std::move(done), [&](DeviceSupervisor& device, Done then) {
    device.Restart(request.binary(), request.discard_state(), std::move(then));
  });
}
void Machine::ResetDevice(absl::string_view name, Done done) {
  CommandDevice(name, std::move(done),
                [](DeviceSupervisor& device, Done then) { device.Reset(std::move(then)); });
}
void Machine::StopDevice(absl::string_view name, Done done) {
  CommandDevice(name, std::move(done),
                [](DeviceSupervisor& device, Done then) { device.Stop(std::move(then)); });
}
void Machine::StartDevice(absl::string_view name, Done done) {
  CommandDevice(name, std::move(done),
                [](DeviceSupervisor& device, Done then) { device.Start(std::move(then)); });
}

// Neither waits: the machine's thread may wait for this very supervisor.
void Machine::PauseForDevice(absl::string_view device) {
  work_->Add([this, name = std::string(device)] {
    const absl::Status paused = AddPause(name, absl::StrCat("device '", name, "' is away"));
    if (!paused.ok() && !end_->reported()) LogWarning(paused.message());
  });
}
void Machine::ResumeForDevice(absl::string_view device) {
  // That somebody else wants the VM to stay paused is no failure.
  work_->Add([this, name = std::string(device)] { RemovePause(name).IgnoreError(); });
}

// As above. The machine's thread may be waiting for this very vCPU, if only until it is outside the
// guest, which it is.
void Machine::HoldForDevice(absl::string_view device, bool hold) {
  work_->Add([this, name = std::string(device), hold] { hold ? AddHold(name) : RemoveHold(name); });
}

absl::StatusOr<ConsoleHub*> Machine::Console(absl::string_view device) {
  return consoles_.Find(device);
}

}  // namespace bulkhead::vmm
