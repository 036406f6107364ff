// The machine's operations for the control plane.
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "proto/balloon_link.h"
#include "proto/channel/channel_client.h"
#include "proto/version.h"
#include "vmm/machine/machine.h"
#include "vmm/vm/vm_metrics.h"

namespace bulkhead::vmm {

void Machine::QueueCommand(std::function<absl::Status()> work, const Done& done) {
  if (!work_->Add([work = std::move(work), done] { done(work()); })) done(EndingError());
}

v1::VmStatus Machine::Status() const {
  v1::VmStatus status;
  state_.Describe(status);
  status.set_name(settings_.name);
  status.set_pid(getpid());
  status.set_vcpus(settings_.cpus);
  status.set_memory_bytes(ram_.size_bytes());
  {
    absl::MutexLock lock(&hardware_mutex_);
    status.set_kernel_path(booted_.kernel);
    status.set_initrd_path(booted_.initrd);
    status.set_cmdline(booted_.command_line);
  }
  status.set_version(VersionText());
  status.set_locked_down(settings_.locked_down);
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
  const auto link = network_links_.find(description.name());
  if (link != network_links_.end()) description.set_link(link->second->up() ? "up" : "down");
  absl::MutexLock lock(&hardware_mutex_);
  if (hardware_ != nullptr) hardware_->Describe(device.device(), description);
  return description;
}

absl::StatusOr<bool> Machine::PressPowerButton() {
  if (end_->reported()) return EndingError();
  absl::MutexLock lock(&hardware_mutex_);
  if (hardware_ == nullptr) {  // the guest is rebooting
    kept_press_ = true;
    return false;
  }
  return hardware_->PressPowerButton();
}

absl::Status Machine::Wake() {
  if (end_->reported()) return EndingError();
  absl::MutexLock lock(&hardware_mutex_);
  // Without hardware the guest is rebooting, and so awake.
  if (hardware_ != nullptr) hardware_->Wake();
  return absl::OkStatus();
}

absl::Status Machine::Stop(absl::string_view reason) {
  RequestEnd({EndReason::kStopped, std::string(reason)});
  return absl::OkStatus();
}

void Machine::Pause(Done done) {
  QueueCommand([this] { return AddPause(kClientPause, "paused by a client"); }, done);
}

void Machine::Resume(bool report_errors, Done done) {
  QueueCommand(
      [this, report_errors] {
        ContinueAfterErrors(report_errors ? ErrorOrder::kReportToGuest : ErrorOrder::kTryAgain);
        return RemovePause(kClientPause);
      },
      done);
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
  std::vector<VcpuFigures> vcpus;
  {
    absl::MutexLock lock(&hardware_mutex_);
    if (hardware_ != nullptr) {
      unclaimed_accesses = hardware_->unclaimed_accesses();
      vcpus = hardware_->DescribeVcpus();
    }
  }
  return MakeMetrics(Status(), unclaimed_accesses, vcpus, devices);
}

void Machine::RefreshMetrics(Done done) {
  // Calls `done` when the last copy goes, which each device drops when it has answered.
  const std::shared_ptr<void> all(nullptr,
                                  [done = std::move(done)](void*) { done(absl::OkStatus()); });
  for (const auto& device : devices_) device->RefreshMetrics([all] {});
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
void Machine::ResizeDisk(const v1::ResizeDiskRequest& request, Done done) {
  CommandDevice(request.name(), std::move(done), [&](DeviceSupervisor& device, Done then) {
    device.Resize(request.size_bytes(), std::move(then));
  });
}
void Machine::LimitDevice(const v1::LimitDeviceRequest& request, Done done) {
  std::map<std::string, std::string> flags;
  const auto set = [&flags](const char* flag, bool given, uint64_t value) {
    if (given) flags[flag] = absl::StrCat(flag, "=", value);
  };
  set("--bps", request.has_bytes_per_second(), request.bytes_per_second());
  set("--iops", request.has_operations_per_second(), request.operations_per_second());
  set("--bps_burst", request.has_bytes_burst(), request.bytes_burst());
  set("--iops_burst", request.has_operations_burst(), request.operations_burst());
  set("--pps", request.has_frames_per_second(), request.frames_per_second());
  set("--pps_burst", request.has_frames_burst(), request.frames_burst());
  if (flags.empty()) return done(absl::InvalidArgumentError("no limit is given"));
  CommandDevice(request.name(), std::move(done), [&](DeviceSupervisor& device, Done then) {
    device.ChangeFlags(std::move(flags), std::move(then));
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

absl::Status Machine::SetDeviceLink(absl::string_view name, bool up) {
  RETURN_IF_ERROR(FindDevice(name).status());
  const auto link = network_links_.find(name);
  if (link == network_links_.end()) {
    return absl::FailedPreconditionError(absl::StrCat("\"", name, "\" is no network device"));
  }
  RETURN_IF_ERROR(link->second->Set(up));
  LogInfo(absl::StrCat("device '", name, "': a client has set its link ", up ? "up" : "down"));
  return absl::OkStatus();
}

absl::StatusOr<v1::Balloon> Machine::Balloon() const {
  if (balloon_ == nullptr) {
    return absl::FailedPreconditionError("the VM has no balloon; give it one by --balloon");
  }
  v1::Balloon balloon;
  balloon.set_device(balloon_device_);
  balloon.set_target_bytes(balloon_->target());
  balloon.set_memory_bytes(ram_.size_bytes());
  ASSIGN_OR_RETURN(DeviceSupervisor* const device, FindDevice(balloon_device_));
  // Of a process that is not trusted, and the guest's own word.
  const v1::DeviceMetrics metrics = device->Metrics();
  for (const v1::DeviceMetric& metric : metrics.metrics()) {
    if (metric.name() != kBalloonActualMetric) continue;
    const double most = static_cast<double>(ram_.size_bytes());
    balloon.set_actual_bytes(static_cast<uint64_t>(std::clamp(metric.value(), 0.0, most)));
  }
  return balloon;
}

absl::Status Machine::SetBalloon(uint64_t target_bytes) {
  if (balloon_ == nullptr) return Balloon().status();
  RETURN_IF_ERROR(balloon_->Set(target_bytes));
  LogInfo(absl::StrCat("device '", balloon_device_, "': a client wants the guest to give up ",
                       balloon_->target() >> 20, " MiB"));
  return absl::OkStatus();
}

// These do not wait: the machine's thread may be waiting for the supervisor that calls.
void Machine::PauseForDevice(absl::string_view device) {
  work_->Add([this, name = std::string(device)] {
    const absl::Status paused = AddPause(name, absl::StrCat("device '", name, "' is unavailable"));
    if (!paused.ok() && !end_->reported()) LogWarning(paused.message());
  });
}
void Machine::ResumeForDevice(absl::string_view device) {
  // If another request keeps the VM paused, that is not a failure.
  work_->Add([this, name = std::string(device)] { RemovePause(name).IgnoreError(); });
}

// Does not wait, either: the caller may be the thread of a vCPU that the machine's thread waits
// for.
void Machine::HoldForDevice(absl::string_view device, bool hold) {
  work_->Add([this, name = std::string(device), hold] {
    if (end_->reported()) return;
    const absl::Status held = hold ? standstill_.AddHold(name) : standstill_.RemoveHold(name);
    if (!held.ok()) LogWarning(held.message());
  });
}

void Machine::SetTracing(bool on) {
  access_trace_->SetOn(on);
  for (const auto& device : devices_) device->device().endpoints().channel().SetTracing(on);
}

absl::StatusOr<std::unique_ptr<VmTrace>> Machine::StartTrace(absl::Duration duration) {
  if (end_->reported()) return EndingError();
  if (trace_runs_.exchange(true)) {
    return absl::FailedPreconditionError("another trace of this VM runs; wait for its end");
  }
  std::vector<TraceSource> sources;
  for (uint32_t vcpu = 0; vcpu < access_trace_->vcpus(); ++vcpu) {
    sources.push_back({.ring = &access_trace_->ring(vcpu), .index = vcpu});
  }
  for (size_t i = 0; i < devices_.size(); ++i) {
    const DeviceEndpoints& endpoints = devices_[i]->device().endpoints();
    sources.push_back({.ring = &endpoints.channel().trace(),
                       .is_device = true,
                       .index = static_cast<uint32_t>(i),
                       .doorbells = static_cast<uint32_t>(endpoints.doorbells().size()),
                       .vectors = static_cast<uint32_t>(endpoints.msix_vectors().size())});
  }
  const uint64_t last_event = events_.last_sequence();  // before the state, which includes it
  const v1::VmStatus status = Status();
  v1::TraceStart start;
  start.set_name(status.name());
  start.set_vcpus(status.vcpus());
  start.set_state(status.state());
  for (v1::Device& device : Devices()) *start.add_devices() = std::move(device);
  auto trace = std::make_unique<VmTrace>(std::move(start), std::move(sources), events_, last_event,
                                         duration, [this] {
                                           SetTracing(false);
                                           access_trace_->Drop();
                                           for (const auto& device : devices_)
                                             device->device().endpoints().channel().DropTrace();
                                           trace_runs_.store(false);
                                         });
  SetTracing(true);
  LogInfo(absl::StrCat("a client traces the VM for ", absl::FormatDuration(duration)));
  return trace;
}

absl::StatusOr<ConsoleHub*> Machine::Console(absl::string_view device) {
  return consoles_.Find(device);
}

}  // namespace bulkhead::vmm
