// What happens to the VM from its start to its end, on the machine's own thread.
#include <poll.h>

#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

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
#include "vmm/machine/device_resets.h"
#include "vmm/machine/machine.h"
#include "vmm/supervisor/host_shortage.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kVcpuStopTimeout = absl::Seconds(5);
constexpr absl::Duration kPauseTimeout = absl::Seconds(5);
// What a slow reader of the console is given at the end.
constexpr absl::Duration kLastOutputTimeout = absl::Milliseconds(500);

}  // namespace

void Machine::SetEndWatchdog(EndWatchdog& watchdog) { end_watchdog_ = &watchdog; }

void Machine::RequestEnd(VmEnd end) {
  end_->Report(std::move(end));
  // Any thread's: the machine's own may be held up.
  if (end_watchdog_ != nullptr) end_watchdog_->Begin(static_cast<int>(end_->end().reason));
}

absl::Status Machine::Start() {
  VcpuThreads& vcpus = platform()->vcpus();
  // Before they start: not one instruction runs.
  motion_ = Motion::kRuns;
  if (!pauses_.empty() || !holds_.empty()) RETURN_IF_ERROR(FollowPauses());
  RETURN_IF_ERROR(vcpus.Start());
  state_.NoteBoot();
  if (motion_ == Motion::kRuns) state_.SetRunning();
  return absl::OkStatus();
}

VmEnd Machine::Run(const OutsideEnd& outside) {
  while (true) {
    Await({work_->fd(), platform()->end().fd()}, outside);
    work_->Run();
    if (!end_->reported() && platform()->end().reported()) {
      FollowGuest(platform()->end().end(), outside);
    }
    if (end_->reported()) return EndAll();
  }
}

void Machine::Await(std::initializer_list<int> fds, const OutsideEnd& outside,
                    absl::Duration limit) {
  std::vector<pollfd> polled = {{.fd = end_->fd(), .events = POLLIN, .revents = 0},
                                {.fd = outside.fd, .events = POLLIN, .revents = 0}};
  for (const int fd : fds) polled.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  const timespec timeout = absl::ToTimespec(limit);
  // Without a limit: the guest runs for as long as it likes. May end early (EINTR): its caller
  // looks.
  (void)ppoll(polled.data(), polled.size(), limit == absl::InfiniteDuration() ? nullptr : &timeout,
              nullptr);
  if (std::optional<VmEnd> end = outside.take(); end.has_value()) RequestEnd(*std::move(end));
}

void Machine::FollowGuest(const VmEnd& end, const OutsideEnd& outside) {
  const bool reboots = (end.reason == EndReason::kReset && settings_.reboot_on_reset) ||
                       (end.reason == EndReason::kTripleFault && settings_.reboot_on_crash);
  if (!reboots) {
    RequestEnd(end);
    return;
  }
  if (end.reason == EndReason::kTripleFault) {
    LogWarning(absl::StrCat("the guest crashed and boots again: ", end.message));
  }
  const absl::Status rebooted = Reboot(end.message, outside);
  if (rebooted.ok()) return;
  // Where it is to end anyway, this comes second and does not count.
  RequestEnd({EndReason::kVmmError, absl::StrCat("rebooting: ", rebooted.message())});
}

absl::Status Machine::Reboot(absl::string_view reason, const OutsideEnd& outside) {
  const absl::Time begin = SteadyNow();
  state_.SetRebooting(reason);
  RETURN_IF_ERROR(platform()->vcpus().Stop(kVcpuStopTimeout));

  // No vCPU waits any more, but a supervisor may have something to tell its device.
  for (const auto& device : devices_) device->device().ResumeAccesses();
  // The devices are reset while this thread sets KVM up anew.
  absl::StatusOr<EventFd> all_done = absl::UnknownError("");
  RETURN_IF_ERROR(TryUntilTheHostCan(outside, [&] {
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
  DropPlatform();
  absl::StatusOr<std::unique_ptr<GuestPlatform>> platform = GuestPlatform::Create(*kvm_, ram_);
  AwaitResets(*resets, outside);
  // A device that is not at rest might write into the new guest's memory: better no guest.
  RETURN_IF_ERROR(resets->status());

  // What the devices had signalled before their reset must not reach the new guest.
  for (const auto& device : devices_) device->device().endpoints().DrainEvents();
  RETURN_IF_ERROR(TryUntilTheHostCan(outside, [&]() -> absl::Status {
    // Of a try that failed, nothing stays.
    if (platform.ok() && *platform == nullptr) platform = GuestPlatform::Create(*kvm_, ram_);
    ASSIGN_OR_RETURN(std::unique_ptr<GuestPlatform> next, std::exchange(platform, nullptr));
    RETURN_IF_ERROR(ram_.Clear());
    RETURN_IF_ERROR(PowerOn(std::move(next)));
    const absl::Status started = Start();
    if (!started.ok()) DropPlatform();
    return started;
  }));
  ReleaseStartupPages();
  LogDebug(absl::StrCat("the guest asked for a reset and boots again, after ",
                        absl::FormatDuration(SteadyNow() - begin)));
  return absl::OkStatus();
}

void Machine::DropPlatform() {
  std::unique_ptr<GuestPlatform> old;
  absl::MutexLock lock(&platform_mutex_);
  kept_press_ |= platform_->has_kept_press();
  old = std::move(platform_);
}

absl::Status Machine::TryUntilTheHostCan(const OutsideEnd& outside,
                                         absl::FunctionRef<absl::Status()> step) {
  std::minstd_rand random(static_cast<unsigned>(absl::ToUnixNanos(SteadyNow())));
  HostShortage shortage([&random] { return std::generate_canonical<double, 32>(random); });
  while (true) {
    const absl::Status status = step();
    // Unavailable: a thread could not be started (EAGAIN).
    if (!absl::IsResourceExhausted(status) && !absl::IsUnavailable(status)) {
      if (status.ok() && shortage.lasts()) {
        LogInfo(absl::StrCat("the guest boots again, after the host could not serve it for ",
                             absl::FormatDuration(shortage.End(SteadyNow()))));
      }
      return status;
    }
    if (!shortage.lasts()) {
      LogError(absl::StrCat("the guest's reboot waits for the host: ", status.message(),
                            "; it is tried until that works"));
      state_.SetRebootWaits(status.message());
    }
    const absl::Time next = SteadyNow() + shortage.OnFailedTry(SteadyNow());
    while (SteadyNow() < next && !end_->reported()) Await({}, outside, next - SteadyNow());
    if (end_->reported()) return absl::CancelledError("the VM is to end");
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
                        : VmEnd{EndReason::kVmmError, "stopped before it ended"};
  if (std::exchange(all_ended_, true)) return end;
  // If nobody has asked for the end, this object's owner does.
  const auto step = [this](auto what) {
    if (end_watchdog_ != nullptr) end_watchdog_->SetStep(what);
  };
  if (end_watchdog_ != nullptr) end_watchdog_->Begin(static_cast<int>(end.reason));
  step("the vCPUs");
  state_.SetEnding(end.message.empty() ? Name(end.reason) : end.message);
  if (GuestPlatform* const current = platform(); current != nullptr) {
    const absl::Status stopped = current->vcpus().Stop(kVcpuStopTimeout);
    if (!stopped.ok()) LogError(stopped.message());
  }
  step([this] { return UnendedDevices(); });
  for (const auto& device : devices_) device->Shutdown();
  for (const auto& device : devices_) device->AwaitShutdown();
  step("the console's last output");
  consoles_.Drain(kLastOutputTimeout);
  step("the threads of the vmm");  // nothing that is destroyed from here on
  if (work_ != nullptr) {
    work_->Close();
    work_->Run();
  }
  return end;
}

absl::Status Machine::AddPause(const std::string& who, std::string why) {
  if (end_->reported()) return absl::UnavailableError("the VM is ending");
  pauses_[who] = std::move(why);
  const absl::Status paused = FollowPauses();
  if (!paused.ok()) pauses_.erase(who);
  return paused;
}

absl::Status Machine::RemovePause(const std::string& who) {
  if (end_->reported()) return absl::UnavailableError("the VM is ending");
  pauses_.erase(who);
  RETURN_IF_ERROR(FollowPauses());
  if (!pauses_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the VM stays paused: ", PauseReason()));
  }
  return absl::OkStatus();
}

void Machine::AddHold(const std::string& device) {
  ++holds_[device];
  if (end_->reported()) return;
  if (const absl::Status held = FollowPauses(); !held.ok()) LogWarning(held.message());
}

void Machine::RemoveHold(const std::string& device) {
  if (--holds_[device] <= 0) holds_.erase(device);
  if (end_->reported()) return;
  if (const absl::Status held = FollowPauses(); !held.ok()) LogWarning(held.message());
}

absl::Status Machine::FollowPauses() {
  const Motion wanted = !pauses_.empty()  ? Motion::kPaused
                        : !holds_.empty() ? Motion::kHeld
                                          : Motion::kRuns;
  if (wanted != motion_) {
    VcpuThreads& vcpus = platform()->vcpus();
    // A vCPU that is parked in an access can wait for it only if it is resumed.
    if (wanted == Motion::kRuns || motion_ == Motion::kPaused) {
      platform()->ContinueClock();
      vcpus.Resume();
      motion_ = Motion::kRuns;
      state_.SetRunning();
    }
    absl::Status stopped;
    if (wanted == Motion::kPaused) stopped = vcpus.Pause(kPauseTimeout);
    if (wanted == Motion::kHeld) stopped = vcpus.Hold(kPauseTimeout);
    if (!stopped.ok()) {  // they run
      platform()->ContinueClock();
      motion_ = Motion::kRuns;
      state_.SetRunning();
      return stopped;
    }
    // After all have left the guest: none sees the time go back.
    if (wanted != Motion::kRuns && motion_ == Motion::kRuns) platform()->StopClock();
    motion_ = wanted;
  }
  if (motion_ != Motion::kRuns) state_.SetPaused(PauseReason());
  return absl::OkStatus();
}

std::string Machine::PauseReason() const {
  std::vector<std::string> reasons;
  for (const auto& [who, why] : pauses_) reasons.push_back(why);
  for (const auto& [device, waits] : holds_) {
    if (pauses_.count(device) > 0) continue;
    reasons.push_back(absl::StrCat("the guest waits for device '", device, "'"));
  }
  return absl::StrJoin(reasons, ", ");
}

}  // namespace bulkhead::vmm
