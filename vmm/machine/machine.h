#ifndef BULKHEAD_VMM_MACHINE_MACHINE_H_
#define BULKHEAD_VMM_MACHINE_MACHINE_H_

#include <stdint.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "vmm/boot/boot.h"
#include "vmm/config/vm_spec.h"
#include "vmm/console/consoles.h"
#include "vmm/control/vm_operations.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/end_watchdog.h"
#include "vmm/machine/standstill.h"
#include "vmm/machine/work_queue.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/platform/guest_platform.h"
#include "vmm/process/process_monitor.h"
#include "vmm/supervisor/device_supervisor.h"
#include "vmm/vcpu/vcpu_threads.h"
#include "vmm/vm/event_log.h"
#include "vmm/vm/vm_end.h"
#include "vmm/vm/vm_state.h"

namespace bulkhead::vmm {

class DeviceResets;

// One virtual machine, put together from a configuration: what lasts for as long as the vmm (RAM,
// device processes, events), and the platform that the guest runs on, which a reboot replaces. Its
// parts know nothing of each other but interfaces; the wiring is here.
//
// One thread creates it and does all that changes it, in Create(), Start() and Run(): so a pause, a
// reboot and the end never meet. Everybody else, the control plane above all, asks by VmOperations,
// which are thread-safe.
class Machine final : public VmOperations {
 public:
  // Loads the kernel and starts the device processes; no guest code runs yet. Errors:
  // InvalidArgument (the configuration: the kernel does not load, the devices do not fit),
  // others (host, KVM, a device that does not start). One message for the operator.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(VmSpec spec);
  // Ends what still runs. Nobody may use the VmOperations any more.
  ~Machine() override;

  // Sees to it that the VM's end takes no longer than it may. Before Start(); must outlive this.
  void SetEndWatchdog(EndWatchdog& watchdog);

  // Kills all device processes, of a VM that does not end: what is left is beyond use. Thread-safe.
  void KillDevices() { monitor_->KillAll(); }

  // Lets the vCPUs run. Errors: as pthread_create(3).
  absl::Status Start();

  // An end that neither the guest nor the control plane asks for: signals.
  struct OutsideEnd {
    int fd = -1;  // readable when there may be one
    std::function<std::optional<VmEnd>()> take;
  };
  // Serves the VM until it is to end, then ends everything, within bounds. Why it ended.
  VmEnd Run(const OutsideEnd& outside);

  // VmOperations
  v1::VmStatus Status() const override;
  std::vector<v1::Device> Devices() const override;
  absl::StatusOr<v1::Device> Device(absl::string_view name) const override;
  v1::VmMetrics Metrics() const override;
  absl::StatusOr<bool> PressPowerButton() override;
  absl::Status Wake() override;
  absl::Status Stop(absl::string_view reason) override;
  void Pause(Done done) override;
  void Resume(Done done) override;
  void RestartDevice(const v1::RestartDeviceRequest& request, Done done) override;
  void ResetDevice(absl::string_view name, Done done) override;
  void StopDevice(absl::string_view name, Done done) override;
  void StartDevice(absl::string_view name, Done done) override;
  EventLog& events() override { return events_; }
  absl::StatusOr<ConsoleHub*> Console(absl::string_view device) override;

 private:
  // What the configuration says and nobody needs to open.
  struct Settings {
    std::string name;
    std::string kernel_path;
    std::string initrd_path;
    uint32_t cpus = 1;
    bool reboot_on_reset = true;
    bool reboot_on_crash = false;
    std::vector<uint32_t> pci_slots;  // wanted, by device
  };

  Machine(Settings settings, GuestRam ram, BootSources boot_sources);

  // --- The machine's own thread
  absl::StatusOr<std::unique_ptr<GuestPlatform>> OpenKvm();
  // Plugs the devices into `platform`, loads the guest, and makes it the current one.
  absl::Status PowerOn(std::unique_ptr<GuestPlatform> platform);
  // Waits until one of `fds` is readable or the VM is to end, or for no reason at all.
  void Await(std::initializer_list<int> fds, const OutsideEnd& outside,
             absl::Duration limit = absl::InfiniteDuration());
  // The guest has ended by itself.
  void FollowGuest(const VmEnd& end, const OutsideEnd& outside);
  absl::Status Reboot(absl::string_view reason, const OutsideEnd& outside);
  void AwaitResets(DeviceResets& resets, const OutsideEnd& outside);
  // There is none from here on. Its vCPUs do not run.
  void DropPlatform();
  // Calls `step` until it does not fail for want of something that the host lacks. Errors: others
  // of `step`; Cancelled (the VM is to end).
  absl::Status TryUntilTheHostCan(const OutsideEnd& outside,
                                  absl::FunctionRef<absl::Status()> step);
  VmEnd EndAll();
  // Of the standstill. Errors: Unavailable (the VM is ending), else as Standstill; that somebody
  // else wants the VM to stay paused is FailedPrecondition.
  absl::Status AddPause(const std::string& who, std::string why);
  absl::Status RemovePause(const std::string& who);
  Standstill::Vm StandstillOperations();

  // --- Any thread
  // Calls `work` on the machine's thread, in turn, and gives its result to `done`; Unavailable if
  // the VM has ended.
  void QueueCommand(std::function<absl::Status()> work, Done done);
  // The current one, or nullptr while there is none. It stays for as long as it has vCPU threads,
  // so for these and the machine's thread. Others hold `platform_mutex_`.
  GuestPlatform* platform() const;
  bool ParkWhilePaused(Requester requester);
  // The first reason counts.
  void RequestEnd(VmEnd end);
  // The devices that have not ended, and what they are at.
  std::string UnendedDevices() const;
  void PauseForDevice(absl::string_view device);
  void ResumeForDevice(absl::string_view device);
  void HoldForDevice(absl::string_view device, bool hold);
  // Errors: NotFound.
  absl::StatusOr<DeviceSupervisor*> FindDevice(absl::string_view name) const;
  void CommandDevice(absl::string_view name, Done done,
                     absl::FunctionRef<void(DeviceSupervisor&, Done)> command);
  v1::Device Describe(DeviceSupervisor& device) const;

  const Settings settings_;
  EndWatchdog* end_watchdog_ = nullptr;
  EventLog events_;
  VmState state_;
  // In this order, so that what is used outlives its users.
  GuestRam ram_;
  const BootSources boot_sources_;
  std::unique_ptr<WorkQueue> work_;
  std::unique_ptr<VmEndLatch> end_;
  std::unique_ptr<Kvm> kvm_;
  Consoles consoles_;
  std::unique_ptr<ProcessMonitor> monitor_;
  std::vector<std::unique_ptr<DeviceSupervisor>> devices_;  // does not change after Create()

  // The machine's thread only.
  Standstill standstill_;
  bool all_ended_ = false;

  mutable absl::Mutex platform_mutex_;
  std::unique_ptr<GuestPlatform> platform_ ABSL_GUARDED_BY(platform_mutex_);
  bool kept_press_ ABSL_GUARDED_BY(platform_mutex_) = false;  // of the power button, for the next
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_MACHINE_H_
