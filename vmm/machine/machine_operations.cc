// What the control plane may ask of the machine. See vm_operations.h for the threads.

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "proto/contract.h"
#include "vmm/machine/machine.h"

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
  status.set_devices(static_cast<uint32_t>(devices_.size()));
  return status;
}

std::vector<v1::Device> Machine::Devices() const {
  std::vector<v1::Device> devices;
  for (const auto& device : devices_) devices.push_back(Describe(*device));
  return devices;
}

absl::StatusOr<v1::Device> Machine::Device(absl::string_view name) const {
  DeviceSupervisor* const device = FindDevice(name);
  if (device == nullptr) {
    return absl::NotFoundError(absl::StrCat("the VM has no device \"", name, "\""));
  }
  return Describe(*device);
}

DeviceSupervisor* Machine::FindDevice(absl::string_view name) const {
  for (const auto& device : devices_) {
    if (device->device().name() == name) return device.get();
  }
  return nullptr;
}

v1::Device Machine::Describe(DeviceSupervisor& device) const {
  v1::Device description = device.Describe();
  absl::MutexLock lock(&platform_mutex_);
  if (platform_ != nullptr) platform_->Describe(device.device(), description);
  return description;
}

absl::Status Machine::PressPowerButton() {
  if (end_->reported()) return Ending();
  absl::MutexLock lock(&platform_mutex_);
  if (platform_ == nullptr) {
    return absl::FailedPreconditionError("the guest is rebooting; try again");
  }
  platform_->PressPowerButton();
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

v1::VmMetrics Machine::Metrics() const { return {}; }

void Machine::RestartDevice(const v1::RestartDeviceRequest&, Done done) {
  done(absl::UnimplementedError("devices cannot be restarted yet"));
}
void Machine::ResetDevice(absl::string_view, Done done) {
  done(absl::UnimplementedError("devices cannot be reset yet"));
}
void Machine::StopDevice(absl::string_view, Done done) {
  done(absl::UnimplementedError("devices cannot be stopped yet"));
}
void Machine::StartDevice(absl::string_view, Done done) {
  done(absl::UnimplementedError("devices cannot be started yet"));
}

absl::StatusOr<ConsoleHub*> Machine::Console(absl::string_view device) {
  return consoles_.Find(device);
}

}  // namespace bulkhead::vmm
