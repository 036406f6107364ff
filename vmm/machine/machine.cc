#include "vmm/machine/machine.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/release_startup_pages.h"
#include "base/running_time.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "vmm/hardware/device_places.h"
#include "vmm/machine/boot_sources.h"
#include "vmm/machine/device_resets.h"
#include "vmm/machine/vmm_lockdown.h"
#include "vmm/process/printable.h"
#include "vmm/supervisor/host_shortage.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kVcpuStopTimeout = absl::Seconds(5);
constexpr absl::Duration kPauseTimeout = absl::Seconds(5);
// How long the end waits for a slow reader of the console.
constexpr absl::Duration kLastOutputTimeout = absl::Milliseconds(500);

constexpr size_t kMaxTextBytes = 4096;

// No device's name.
std::string ErrorOf(absl::string_view device) { return absl::StrCat("error: ", device); }

// The vmm or its host failed, so not InvalidArgument, whatever the code of the layer below.
absl::Status AsVmmError(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  return absl::InternalError(status.message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(VmSpec spec,
                                                         std::unique_ptr<Launcher> launcher) {
  if (IsLockedDown(spec)) RETURN_IF_ERROR(SealLauncher(*launcher, spec));
  std::optional<BootSources> sources;
  if (!spec.disk_boot.has_value()) {
    ASSIGN_OR_RETURN(sources, OpenBootSources(spec));
  }
  ASSIGN_OR_RETURN(GuestRam ram, GuestRam::Create(spec.memory_bytes, spec.ram_backing));
  const bool populate_ram =
      spec.prefault_ram ||
      // They are set aside on any node, and of a node only when they are taken, by this process.
      (spec.ram_backing.is_of_hugetlbfs() && spec.ram_backing.numa_node.has_value()) ||
      std::any_of(spec.devices.begin(), spec.devices.end(),
                  [](const DeviceSpec& device) { return device.cgroup_limits.memory_bytes != 0; });
  if (populate_ram) RETURN_IF_ERROR(ram.Populate());
  ASSIGN_OR_RETURN(std::function<absl::Status()> confine_vcpu, VcpuConfinement(spec));
  Settings settings = {.name = spec.name,
                       .cpus = spec.cpus,
                       .reboot_on_reset = spec.reboot_on_reset,
                       .reboot_on_crash = spec.reboot_on_crash,
                       .on_panic = spec.on_panic,
                       .on_watchdog = spec.on_watchdog,
                       .populate_ram = populate_ram,
                       .pci_slots = {},
                       .locked_down = IsLockedDown(spec),
                       .confine_vcpu = std::move(confine_vcpu)};
  std::vector<DevicePlace> places;
  for (const DeviceSpec& device : spec.devices) {
    settings.pci_slots.push_back(device.pci_slot);
    places.push_back(DevicePlace::Of(device));
  }
  std::unique_ptr<Machine> machine =
      absl::WrapUnique(new Machine(std::move(settings), std::move(ram), std::move(spec.disk_boot)));
  machine->boot_sources_ = std::move(sources);
  {
    absl::MutexLock lock(&machine->hardware_mutex_);
    machine->booted_ = {spec.kernel_path, spec.initrd_path, spec.cmdline};
  }
  machine->network_links_ = LinksOf(spec.devices);
  for (const DeviceSpec& device : spec.devices) {
    if (device.balloon == nullptr) continue;
    machine->balloon_device_ = device.name;
    machine->balloon_ = device.balloon;
  }
  ASSIGN_OR_RETURN(machine->work_, WorkQueue::Create());
  ASSIGN_OR_RETURN(machine->end_, VmEndLatch::Create());
  ASSIGN_OR_RETURN(
      machine->monitor_, ProcessMonitor::Create(std::move(launcher), [m = machine.get()] {
        m->RequestEnd(
            {EndReason::kVmmError, "the launcher of device processes is dead, and so are they"});
      }));
  ASSIGN_OR_RETURN(machine->access_trace_, AccessTrace::Create(spec.cpus));
  ASSIGN_OR_RETURN(machine->consoles_, Consoles::Create(spec.devices));
  ASSIGN_OR_RETURN(machine->links_, VmLinks::Create(spec.devices));
  ASSIGN_OR_RETURN(machine->error_links_, ErrorLinks::Create(spec.devices));

  // Device processes start while this thread sets up KVM, since they do not depend on each other.
  absl::StatusOr<std::vector<std::unique_ptr<DeviceSupervisor>>> devices;
  std::thread starter([&] {
    SupervisorOptions options;
    options.start_timeout =
        StartTimeoutFor(spec.devices.size(), std::thread::hardware_concurrency());
    options.vcpus = spec.cpus;
    options.events = &machine->events_;
    options.trace = machine->access_trace_.get();
    options.park = [m = machine.get()](Waiter vcpu) { return m->ParkWhilePaused(vcpu); };
    options.pause_vm = [m = machine.get()](absl::string_view name) { m->PauseForDevice(name); };
    options.hold_vm = [m = machine.get()](absl::string_view name, bool hold) {
      m->HoldForDevice(name, hold);
    };
    options.resume_vm = [m = machine.get()](absl::string_view name) { m->ResumeForDevice(name); };
    devices = StartDevices(std::move(spec.devices), machine->ram_, *machine->monitor_, options);
  });
  absl::StatusOr<std::unique_ptr<GuestHardware>> hardware = machine->OpenKvm();
  const absl::Status found = machine->FindBoot(WaitForBootLoader);
  starter.join();
  RETURN_IF_ERROR(AsVmmError(hardware.status()));
  RETURN_IF_ERROR(devices.status());
  RETURN_IF_ERROR(found);
  machine->devices_ = *std::move(devices);
  for (size_t i = 0; i < places.size(); ++i) {
    machine->devices_[i]->device().set_trace_index(static_cast<uint32_t>(i));
    places[i].description = &machine->devices_[i]->device().description();
  }
  RETURN_IF_ERROR(CheckPlaces(places));
  RETURN_IF_ERROR(machine->PowerOn(*std::move(hardware)));
  if (spec.ram_backing.huge_pages == RamBacking::HugePages::kCollapsed) {
    absl::StatusOr<std::unique_ptr<RamCollapse>> collapse =
        RamCollapse::Start(machine->ram_, {.pages_are_freed = machine->balloon_ != nullptr});
    if (!collapse.ok()) LogWarning(collapse.status().message());
    if (collapse.ok()) machine->collapse_ = *std::move(collapse);
  }
  return machine;
}

Machine::Machine(Settings settings, GuestRam ram, std::optional<DiskBootSpec> disk_boot)
    : settings_(std::move(settings)),
      state_(events_),
      ram_(std::move(ram)),
      disk_boot_(std::move(disk_boot)),
      guest_faults_(settings_.on_panic, settings_.on_watchdog),
      standstill_(StandstillOperations()) {}

Machine::~Machine() { EndAll(); }

absl::StatusOr<std::unique_ptr<GuestHardware>> Machine::OpenKvm() {
  ASSIGN_OR_RETURN(Kvm kvm, Kvm::Open());
  kvm_ = std::make_unique<Kvm>(std::move(kvm));
  return GuestHardware::Create(*kvm_, ram_);
}

absl::Status Machine::FindBoot(BootWait wait) {
  if (!disk_boot_.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(FoundBoot found, FindBootOnDisk(*disk_boot_, *monitor_, wait));
  LogInfo(absl::StrCat("booting \"", found.title, "\": ", found.kernel));
  absl::MutexLock lock(&hardware_mutex_);
  booted_ = {found.kernel, found.initrd, Printable(found.sources.command_line, kMaxTextBytes)};
  boot_sources_ = std::move(found.sources);
  return absl::OkStatus();
}

absl::Status Machine::PowerOn(std::unique_ptr<GuestHardware> hardware) {
  std::vector<RemoteDevice*> devices;
  for (const auto& device : devices_) devices.push_back(&device->device());
  RETURN_IF_ERROR(hardware->Plug(devices, settings_.pci_slots));
  const WaitControl waits = {.cancel =
                                 [this] {
                                   for (const auto& d : devices_) d->device().CancelAccesses();
                                 },
                             .resume =
                                 [this] {
                                   for (const auto& d : devices_) d->device().ResumeAccesses();
                                 }};
  RETURN_IF_ERROR(hardware->Load(*boot_sources_, settings_.cpus, waits, settings_.confine_vcpu));
  if (disk_boot_.has_value()) boot_sources_.reset();  // they lie in memory
  absl::MutexLock lock(&hardware_mutex_);
  hardware_ = std::move(hardware);
  if (std::exchange(kept_press_, false)) hardware_->PressPowerButton();
  return absl::OkStatus();
}

GuestHardware* Machine::hardware() const {
  absl::MutexLock lock(&hardware_mutex_);
  return hardware_.get();
}

bool Machine::ParkWhilePaused(Waiter waiter) {
  // Only a vCPU thread may use hardware() without the lock.
  if (waiter >= settings_.cpus) return false;
  return hardware()->vcpus().ParkWhilePaused(waiter);
}

// ---- From the start to the end, on the machine's thread ----

void Machine::SetEndWatchdog(EndWatchdog& watchdog) { end_watchdog_ = &watchdog; }

void Machine::RequestEnd(VmEnd end) {
  end_->Report(std::move(end));
  // Here, on any thread: the machine's thread may be blocked.
  if (EndWatchdog* const watchdog = end_watchdog_) {
    watchdog->Begin(static_cast<int>(end_->end().reason));
  }
}

absl::Status Machine::Start() {
  VcpuThreads& vcpus = hardware()->vcpus();
  links_->ContinueClock();  // that of a new boot
  // Before the vCPUs start, so that not one instruction runs.
  RETURN_IF_ERROR(standstill_.OnNewVcpus());
  RETURN_IF_ERROR(vcpus.Start());
  state_.NoteBoot();
  if (!standstill_.is_requested()) state_.SetRunning();
  return absl::OkStatus();
}

VmEnd Machine::Run(const OutsideEnd& outside) {
  while (true) {
    Await({work_->fd(), hardware()->end().fd(), links_->fd(), error_links_->fd()}, outside,
          links_->wait());
    work_->Run();
    TakeReports(outside, /*rebooting=*/false);
    PauseForErrors();
    if (!end_->reported() && hardware()->end().reported()) {
      OnGuestEnd(hardware()->end().end(), outside);
    }
    if (end_->reported()) return EndAll();
  }
}

void Machine::Await(std::initializer_list<int> fds, const OutsideEnd& outside,
                    absl::Duration limit) {
  std::vector<pollfd> polled = {{.fd = end_->fd(), .events = POLLIN, .revents = 0},
                                {.fd = outside.fd, .events = POLLIN, .revents = 0}};
  for (const int fd : fds) polled.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  if (outside.alive) limit = std::min(limit, outside.alive());
  const timespec timeout = absl::ToTimespec(limit);
  // May return early (EINTR): the caller checks again.
  (void)ppoll(polled.data(), polled.size(), limit == absl::InfiniteDuration() ? nullptr : &timeout,
              nullptr);
  if (std::optional<VmEnd> end = outside.take(); end.has_value()) RequestEnd(*std::move(end));
}

void Machine::OnGuestEnd(const VmEnd& end, const OutsideEnd& outside) {
  const bool reboots = (end.reason == EndReason::kReset && settings_.reboot_on_reset) ||
                       (end.reason == EndReason::kTripleFault && settings_.reboot_on_crash);
  if (!reboots) {
    RequestEnd(end);
    return;
  }
  if (end.reason == EndReason::kTripleFault) {
    LogWarning(absl::StrCat("the guest crashed and reboots: ", end.message));
  }
  RebootOrEnd(end.message, outside);
}

void Machine::RebootOrEnd(absl::string_view reason, const OutsideEnd& outside) {
  const absl::Status rebooted = Reboot(reason, outside);
  if (rebooted.ok()) return;
  // If an end was already requested, that one wins.
  RequestEnd({EndReason::kVmmError, absl::StrCat("rebooting: ", rebooted.message())});
}

void Machine::TakeReports(const OutsideEnd& outside, bool rebooting) {
  // Of the last guest's, none may reach the next one.
  const std::vector<VmLinks::Report> reports =
      rebooting ? links_->TakeAllReports() : links_->TakeReports();
  std::optional<VmReport::Kind> ends, reboots, pauses;
  for (const VmLinks::Report& report : reports) {
    FaultAction action = guest_faults_.ActionOn(report.kind);
    if (rebooting && action != FaultAction::kExit) action = FaultAction::kReport;
    events_.Append(GuestFaults::EventOf(report, action));
    const absl::string_view text = GuestFaults::TextOf(report.kind);
    LogWarning(absl::StrCat("device '", report.device, "': ", text));
    if (action == FaultAction::kExit) ends = ends.value_or(report.kind);
    if (action == FaultAction::kReboot) reboots = reboots.value_or(report.kind);
    if (action == FaultAction::kPause) pauses = pauses.value_or(report.kind);
  }
  // The strongest one only.
  if (ends.has_value()) {
    RequestEnd({GuestFaults::EndOf(*ends), std::string(GuestFaults::TextOf(*ends))});
  } else if (reboots.has_value()) {
    RebootOrEnd(GuestFaults::TextOf(*reboots), outside);
  } else if (pauses.has_value()) {
    const absl::Status paused = AddPause(kClientPause, std::string(GuestFaults::TextOf(*pauses)));
    if (!paused.ok()) LogWarning(paused.message());
  }
}

absl::Status Machine::Reboot(absl::string_view reason, const OutsideEnd& outside) {
  const absl::Time begin = SteadyNow();
  state_.SetRebooting(reason);
  RETURN_IF_ERROR(hardware()->vcpus().Stop(kVcpuStopTimeout));
  links_->StopClock();  // until Start()

  // No vCPU waits any more, but a supervisor may access its device.
  for (const auto& device : devices_) device->device().ResumeAccesses();
  // The devices are reset while this thread sets up a new KVM VM.
  absl::StatusOr<EventFd> all_done = absl::UnknownError("");
  RETURN_IF_ERROR(RetryWhileHostIsShort(outside, [&] {
    all_done = EventFd::Create();
    return all_done.status();
  }));
  std::set<std::string> names;
  for (const auto& device : devices_) names.insert(device->device().name());
  const auto resets = std::make_shared<DeviceResets>(std::move(names), *std::move(all_done));
  for (const auto& device : devices_) {
    device->ResetForReboot([resets, name = device->device().name()](const absl::Status& status) {
      resets->Done(name, status);
    });
  }
  DropHardware();
  absl::StatusOr<std::unique_ptr<GuestHardware>> hardware = GuestHardware::Create(*kvm_, ram_);
  AwaitResets(*resets, outside);
  // A device that was not reset could write into the new guest's memory: rather fail than boot.
  RETURN_IF_ERROR(resets->status());

  // Events that the devices signalled before their reset must not reach the new guest.
  for (const auto& device : devices_) device->device().endpoints().DrainEvents();
  // But if the guest crashed before it asked for the reset, that counts.
  TakeReports(outside, /*rebooting=*/true);
  error_links_->Continue(ErrorOrder::kTryAgain);  // drops reports of requests that are no more
  if (end_->reported()) return absl::CancelledError("the VM is ending");
  RETURN_IF_ERROR(RetryWhileHostIsShort(outside, [&]() -> absl::Status {
    // A failed try has used the hardware up: create another one.
    if (hardware.ok() && *hardware == nullptr) hardware = GuestHardware::Create(*kvm_, ram_);
    ASSIGN_OR_RETURN(std::unique_ptr<GuestHardware> next, std::exchange(hardware, nullptr));
    RETURN_IF_ERROR(ram_.Clear([&] {
      Await({}, outside, absl::ZeroDuration());
      return end_->reported();
    }));
    // After that, which makes room for kernel and initrd.
    RETURN_IF_ERROR(FindBoot([this, &outside](int fd) {
      Await({fd}, outside, absl::Seconds(1));
      return !end_->reported();
    }));
    if (settings_.populate_ram) RETURN_IF_ERROR(ram_.Populate());
    RETURN_IF_ERROR(PowerOn(std::move(next)));
    const absl::Status started = Start();
    if (!started.ok()) DropHardware();
    return started;
  }));
  ContinueAfterErrors(ErrorOrder::kTryAgain);  // what the VM was paused for is no more, either
  if (collapse_ != nullptr) collapse_->Forget();
  ReleaseStartupPages();
  LogDebug(absl::StrCat("the guest boots again (", reason, "), after ",
                        absl::FormatDuration(SteadyNow() - begin)));
  return absl::OkStatus();
}

void Machine::DropHardware() {
  std::unique_ptr<GuestHardware> old;
  absl::MutexLock lock(&hardware_mutex_);
  kept_press_ |= hardware_->has_kept_press();
  old = std::move(hardware_);
}

absl::Status Machine::RetryWhileHostIsShort(const OutsideEnd& outside,
                                            absl::FunctionRef<absl::Status()> step) {
  std::minstd_rand random(static_cast<unsigned>(absl::ToUnixNanos(SteadyNow())));
  HostShortage shortage([&random] { return std::generate_canonical<double, 32>(random); });
  while (true) {
    absl::Status status = step();
    // Unavailable means that a thread could not be started (EAGAIN).
    if (!absl::IsResourceExhausted(status) && !absl::IsUnavailable(status)) {
      if (status.ok() && shortage.lasts()) {
        LogInfo(absl::StrCat("the guest reboots, after a shortage of the host for ",
                             absl::FormatDuration(shortage.End(SteadyNow()))));
      }
      return status;
    }
    if (!shortage.lasts()) {
      LogError(absl::StrCat("the guest's reboot waits for the host: ", status.message(),
                            "; the reboot is repeated until it succeeds"));
      state_.SetRebootWaits(status.message());
    }
    const absl::Time next = SteadyNow() + shortage.OnFailedTry(SteadyNow());
    while (SteadyNow() < next && !end_->reported()) Await({}, outside, next - SteadyNow());
    if (end_->reported()) return absl::CancelledError("the VM is ending");
  }
}

void Machine::AwaitResets(DeviceResets& resets, const OutsideEnd& outside) {
  RunningTime time(absl::Seconds(1), SteadyNow());
  while (!end_->reported() && resets.MustWait(time.Advance(SteadyNow()))) {
    Await({resets.fd()}, outside, time.step());
  }
}

std::string Machine::UnendedDevices() const {
  std::vector<std::string> left;
  for (const auto& device : devices_) {
    const absl::string_view step = device->step();
    if (step.empty()) continue;
    left.push_back(absl::StrCat("device '", device->device().name(), "' (", step, ")"));
  }
  return left.empty() ? "the vmm's own threads" : absl::StrJoin(left, ", ");
}

VmEnd Machine::EndAll() {
  const VmEnd end = end_ != nullptr && end_->reported()
                        ? end_->end()
                        : VmEnd{EndReason::kVmmError, "the vmm ended before the VM"};
  if (std::exchange(all_ended_, true)) return end;
  // Without an earlier request, the owner of this object requests the end.
  EndWatchdog* const watchdog = end_watchdog_;
  const auto step = [watchdog](auto what) {
    if (watchdog != nullptr) watchdog->SetStep(what);
  };
  std::optional<EndWatchdog::ExitAction> say_why;
  if (watchdog != nullptr) {
    watchdog->Begin(static_cast<int>(end.reason));
    // If the watchdog ends this process, nobody else does.
    say_why.emplace(watchdog->AddExitAction([end] {
      LogError(absl::StrCat("the VM was ending: ", Name(end.reason),
                            end.message.empty() ? "" : ": ", end.message));
    }));
  }
  step("the vCPUs");
  state_.SetEnding(end.message.empty() ? Name(end.reason) : end.message);
  if (GuestHardware* const current = hardware(); current != nullptr) {
    const absl::Status stopped = current->vcpus().Stop(kVcpuStopTimeout);
    if (!stopped.ok()) LogError(stopped.message());
  }
  step([this] { return UnendedDevices(); });
  for (const auto& device : devices_) device->Shutdown();
  for (const auto& device : devices_) device->AwaitShutdown();
  step("the console's last output");
  consoles_.Drain(kLastOutputTimeout);
  step("the threads of the vmm");  // a text that owns itself: the rest is destroyed from here on
  if (work_ != nullptr) {
    work_->Close();
    work_->Run();
  }
  return end;
}

absl::Status Machine::AddPause(const std::string& requester, std::string why) {
  if (end_->reported()) return EndingError();
  return standstill_.AddPause(requester, std::move(why));
}

absl::Status Machine::RemovePause(const std::string& requester) {
  if (end_->reported()) return EndingError();
  RETURN_IF_ERROR(standstill_.RemovePause(requester));
  if (standstill_.is_requested()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the VM stays paused: ", standstill_.reason()));
  }
  return absl::OkStatus();
}

void Machine::PauseForErrors() {
  error_links_->Take([this](const std::string& device, const std::string& what) {
    LogError(absl::StrCat("device '", device, "': ", what,
                          "; the VM is paused until it is resumed (vmctl resume)"));
    errors_.insert(device);
    const absl::Status paused =
        AddPause(ErrorOf(device), absl::StrCat("device '", device, "': ", what));
    if (!paused.ok() && !end_->reported()) LogWarning(paused.message());
  });
}

void Machine::ContinueAfterErrors(ErrorOrder order) {
  // The VM may stay paused for another reason: that is no failure.
  for (const std::string& device : errors_) RemovePause(ErrorOf(device)).IgnoreError();
  if (!std::exchange(errors_, {}).empty()) error_links_->Continue(order);
}

Standstill::Vm Machine::StandstillOperations() {
  return {.pause = [this] { return hardware()->vcpus().Pause(kPauseTimeout); },
          .hold = [this] { return hardware()->vcpus().Hold(kPauseTimeout); },
          .resume = [this] { hardware()->vcpus().Resume(); },
          .stop_clock =
              [this] {
                hardware()->StopClock();
                links_->StopClock();
              },
          .continue_clock =
              [this] {
                links_->ContinueClock();
                hardware()->ContinueClock();
              },
          .report_paused = [this](const std::string& reason) { state_.SetPaused(reason); },
          .report_running = [this] { state_.SetRunning(); }};
}

}  // namespace bulkhead::vmm
