#include "vmm/machine/machine.h"

#include <poll.h>

#include <thread>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kVcpuStopTimeout = absl::Seconds(5);
constexpr absl::Duration kPauseTimeout = absl::Seconds(5);
// What a slow reader of the console is given at the end.
constexpr absl::Duration kLastOutputTimeout = absl::Milliseconds(500);

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
  absl::StatusOr<BootSources> sources = OpenBootSources(spec);
  if (!sources.ok()) return AsConfigError(sources.status());
  ASSIGN_OR_RETURN(GuestRam ram, GuestRam::Create(spec.memory_bytes));
  Settings settings = {.name = spec.name,
                       .kernel_path = spec.kernel_path,
                       .initrd_path = spec.initrd_path,
                       .cpus = spec.cpus,
                       .reboot_on_reset = spec.reboot_on_reset,
                       .pci_slots = {}};
  for (const DeviceSpec& device : spec.devices) settings.pci_slots.push_back(device.pci_slot);
  std::unique_ptr<Machine> machine =
      absl::WrapUnique(new Machine(std::move(settings), std::move(ram), *std::move(sources)));
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
    devices = StartDevices(std::move(spec.devices), machine->ram_, *machine->monitor_, options);
  });
  absl::StatusOr<std::unique_ptr<GuestPlatform>> platform = machine->OpenKvm();
  starter.join();
  RETURN_IF_ERROR(AsVmmError(platform.status()));
  RETURN_IF_ERROR(devices.status());
  machine->devices_ = *std::move(devices);
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
  return absl::OkStatus();
}

absl::Status Machine::Start() {
  VcpuThreads& vcpus = platform()->vcpus();
  if (!pauses_.empty()) RETURN_IF_ERROR(vcpus.Pause(kPauseTimeout));
  RETURN_IF_ERROR(vcpus.Start());
  state_.NoteBoot();
  if (pauses_.empty()) {
    state_.SetRunning();
  } else {
    state_.SetPaused(PauseReason());
  }
  return absl::OkStatus();
}

void Machine::AwaitWork(int other_fd) {
  pollfd polled[] = {{.fd = work_->fd(), .events = POLLIN, .revents = 0},
                     {.fd = end_->fd(), .events = POLLIN, .revents = 0},
                     {.fd = platform()->end().fd(), .events = POLLIN, .revents = 0},
                     {.fd = other_fd, .events = POLLIN, .revents = 0}};
  // No limit: the guest runs for as long as it likes. EINTR: whoever waits looks, and comes again.
  (void)poll(polled, std::size(polled), -1);
}

std::optional<VmEnd> Machine::Work() {
  work_->Run();
  if (!end_->reported() && platform()->end().reported()) {
    const VmEnd end = platform()->end().end();
    if (end.reason == EndReason::kReset && settings_.reboot_on_reset) {
      const absl::Status rebooted = Reboot(end.message);
      if (!rebooted.ok()) {
        RequestEnd({EndReason::kVmmError, absl::StrCat("rebooting: ", rebooted.message())});
      }
    } else {
      RequestEnd(end);
    }
  }
  if (!end_->reported()) return std::nullopt;
  return EndAll();
}

absl::Status Machine::Reboot(absl::string_view reason) {
  const absl::Time begin = absl::Now();
  state_.SetRebooting(reason);
  RETURN_IF_ERROR(platform()->vcpus().Stop(kVcpuStopTimeout));
  std::unique_ptr<GuestPlatform> old;
  {
    absl::MutexLock lock(&platform_mutex_);
    old = std::move(platform_);
  }
  old.reset();
  ResetDevices();
  const absl::Time reset = absl::Now();
  // What the devices had signalled before their reset must not reach the new guest.
  for (const auto& device : devices_) device->device().endpoints().DrainEvents();
  RETURN_IF_ERROR(ram_.Clear());
  ASSIGN_OR_RETURN(std::unique_ptr<GuestPlatform> platform, GuestPlatform::Create(*kvm_, ram_));
  RETURN_IF_ERROR(PowerOn(std::move(platform)));
  for (const auto& d : devices_) d->device().ResumeAccesses();
  RETURN_IF_ERROR(Start());
  LogDebug(absl::StrCat("the guest asked for a reset and boots again, after ",
                        absl::FormatDuration(absl::Now() - begin), ", of which ",
                        absl::FormatDuration(reset - begin), " to stop it and reset its devices"));
  return absl::OkStatus();
}

void Machine::ResetDevices() {}

VmEnd Machine::EndAll() {
  const VmEnd end = end_ != nullptr && end_->reported()
                        ? end_->end()
                        : VmEnd{EndReason::kVmmError, "stopped before it ended"};
  if (std::exchange(all_ended_, true)) return end;
  state_.SetEnding(end.message.empty() ? Name(end.reason) : end.message);
  if (GuestPlatform* const current = platform(); current != nullptr) {
    const absl::Status stopped = current->vcpus().Stop(kVcpuStopTimeout);
    if (!stopped.ok()) LogError(stopped.message());
  }
  for (const auto& device : devices_) device->Shutdown();
  for (const auto& device : devices_) device->AwaitShutdown();
  consoles_.Drain(kLastOutputTimeout);
  if (work_ != nullptr) {
    work_->Close();
    work_->Run();
  }
  return end;
}

absl::Status Machine::AddPause(const std::string& who, std::string why) {
  if (end_->reported()) return absl::UnavailableError("the VM is ending");
  if (pauses_.empty()) {
    const absl::Status paused = platform()->vcpus().Pause(kPauseTimeout);
    if (!paused.ok()) return paused;
  }
  pauses_[who] = std::move(why);
  state_.SetPaused(PauseReason());
  return absl::OkStatus();
}

absl::Status Machine::RemovePause(const std::string& who) {
  if (end_->reported()) return absl::UnavailableError("the VM is ending");
  if (pauses_.erase(who) == 0 && pauses_.empty()) return absl::OkStatus();
  if (!pauses_.empty()) {
    state_.SetPaused(PauseReason());
    return absl::FailedPreconditionError(absl::StrCat("the VM stays paused: ", PauseReason()));
  }
  platform()->vcpus().Resume();
  state_.SetRunning();
  return absl::OkStatus();
}

std::string Machine::PauseReason() const {
  return absl::StrJoin(pauses_, ", ", [](std::string* out, const auto& pause) {
    absl::StrAppend(out, pause.second);
  });
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
