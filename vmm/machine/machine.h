#ifndef BULKHEAD_VMM_MACHINE_MACHINE_H_
#define BULKHEAD_VMM_MACHINE_MACHINE_H_

#include <stdint.h>

#include <atomic>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <set>
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
#include "vmm/config/balloon_switch.h"
#include "vmm/config/network.h"
#include "vmm/config/vm_spec.h"
#include "vmm/console/consoles.h"
#include "vmm/control/vm_operations.h"
#include "vmm/hardware/guest_hardware.h"
#include "vmm/kvm/kvm.h"
#include "vmm/launcher/launcher.h"
#include "vmm/machine/disk_boot.h"
#include "vmm/machine/end_watchdog.h"
#include "vmm/machine/error_links.h"
#include "vmm/machine/guest_faults.h"
#include "vmm/machine/standstill.h"
#include "vmm/machine/work_queue.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/memory/ram_collapse.h"
#include "vmm/process/process_monitor.h"
#include "vmm/supervisor/device_supervisor.h"
#include "vmm/vcpu/vcpu_threads.h"
#include "vmm/vm/access_trace.h"
#include "vmm/vm/event_log.h"
#include "vmm/vm/vm_end.h"
#include "vmm/vm/vm_state.h"
#include "vmm/vm/vm_trace.h"
#include "vmm/vm_link/vm_links.h"

namespace bulkhead::vmm {

class DeviceResets;

// One virtual machine, created from a configuration: the parts that live as long as the vmm (RAM,
// device processes, events), and the guest's hardware, which a reboot replaces. The parts use each
// other only through interfaces; Machine connects them.
//
// One thread, the machine's thread, creates it and makes all changes, in Create(), Start() and
// Run(): so a pause, a reboot and the end cannot overlap. All other callers, mainly the control
// plane, use VmOperations, which are thread-safe.
class Machine final : public VmOperations {
 public:
  // Loads the kernel and starts the device processes; no guest code runs yet. Errors, each one
  // message for the operator: InvalidArgument (the configuration: the kernel does not load, the
  // devices conflict), others (host, KVM, a device that does not start).
  static absl::StatusOr<std::unique_ptr<Machine>> Create(VmSpec spec,
                                                         std::unique_ptr<Launcher> launcher);
  // Ends all that still runs. No thread may use the VmOperations any more.
  ~Machine() override;

  // Sets the watchdog that bounds the time of the VM's end. Call before Start(); must outlive this.
  void SetEndWatchdog(EndWatchdog& watchdog);

  // Kills all device processes of a VM that does not end in time. The VM is unusable afterwards.
  // Thread-safe.
  void KillDevices() { monitor_->KillAll(); }

  // Starts the vCPUs. Errors: as pthread_create(3).
  absl::Status Start();

  // Ends that neither the guest nor the control plane requests: signals.
  struct OutsideEnd {
    int fd = -1;  // readable when there may be one
    std::function<std::optional<VmEnd>()> take;
    // May be null. The machine's thread calls it each time that it has nothing to do, and again
    // after the time that it returns at the latest: so it shows that this thread does its work.
    std::function<absl::Duration()> alive;
  };
  // Serves the VM until its end is requested, then ends everything within bounded time. Returns why
  // it ended.
  VmEnd Run(const OutsideEnd& outside);

  // VmOperations
  v1::VmStatus Status() const override;
  std::vector<v1::Device> Devices() const override;
  absl::StatusOr<v1::Device> Device(absl::string_view name) const override;
  v1::VmMetrics Metrics() const override;
  void RefreshMetrics(Done done) override;
  absl::StatusOr<bool> PressPowerButton() override;
  absl::Status Wake() override;
  absl::Status Stop(absl::string_view reason) override;
  void Pause(Done done) override;
  void Resume(bool report_errors, Done done) override;
  void RestartDevice(const v1::RestartDeviceRequest& request, Done done) override;
  void ResizeDisk(const v1::ResizeDiskRequest& request, Done done) override;
  void LimitDevice(const v1::LimitDeviceRequest& request, Done done) override;
  void ResetDevice(absl::string_view name, Done done) override;
  void StopDevice(absl::string_view name, Done done) override;
  void StartDevice(absl::string_view name, Done done) override;
  absl::Status SetDeviceLink(absl::string_view name, bool up) override;
  absl::StatusOr<v1::Balloon> Balloon() const override;
  absl::Status SetBalloon(uint64_t target_bytes) override;
  EventLog& events() override { return events_; }
  absl::StatusOr<ConsoleHub*> Console(absl::string_view device) override;
  absl::StatusOr<std::unique_ptr<VmTrace>> StartTrace(absl::Duration duration) override;

 private:
  // The part of the configuration that needs no open files.
  struct Settings {
    std::string name;
    uint32_t cpus = 1;
    bool reboot_on_reset = true;
    bool reboot_on_crash = false;
    FaultAction on_panic = FaultAction::kExit;
    FaultAction on_watchdog = FaultAction::kReboot;
    bool populate_ram = false;        // GuestRam::Populate()
    std::vector<uint32_t> pci_slots;  // as configured, by device
    bool locked_down = false;
    std::function<absl::Status()> confine_vcpu;
  };

  // What the guest runs, for people.
  struct Booted {
    std::string kernel;
    std::string initrd;
    std::string command_line;
  };

  Machine(Settings settings, GuestRam ram, std::optional<DiskBootSpec> disk_boot);

  // --- On the machine's thread
  absl::StatusOr<std::unique_ptr<GuestHardware>> OpenKvm();
  // Finds the kernel on the guest's disk, if that is where it is. `wait`: as FindBootOnDisk().
  absl::Status FindBoot(BootWait wait);
  // Plugs the devices into `hardware`, loads the guest, and makes it the current one.
  absl::Status PowerOn(std::unique_ptr<GuestHardware> hardware);
  // Waits until one of `fds` is readable, the VM's end is requested, or `limit` has passed. May
  // return early.
  void Await(std::initializer_list<int> fds, const OutsideEnd& outside,
             absl::Duration limit = absl::InfiniteDuration());
  // Reboots, or requests the VM's end. Call when the guest has ended by itself.
  void OnGuestEnd(const VmEnd& end, const OutsideEnd& outside);
  // Does what is to be done about what the devices have reported of the guest. During a reboot that
  // is only its end.
  void TakeReports(const OutsideEnd& outside, bool rebooting);
  // Logs a failure.
  void RebootOrEnd(absl::string_view reason, const OutsideEnd& outside);
  absl::Status Reboot(absl::string_view reason, const OutsideEnd& outside);
  void AwaitResets(DeviceResets& resets, const OutsideEnd& outside);
  // Destroys the hardware, whose vCPUs must not run. There is none afterwards.
  void DropHardware();
  // Calls `step` again while it fails because of a shortage of the host. Errors: others of `step`;
  // Cancelled (the VM is ending).
  absl::Status RetryWhileHostIsShort(const OutsideEnd& outside,
                                     absl::FunctionRef<absl::Status()> step);
  VmEnd EndAll();
  // As in Standstill. Errors: Unavailable (the VM is ending), FailedPrecondition (another request
  // keeps the VM paused), else as Standstill.
  absl::Status AddPause(const std::string& requester, std::string why);
  absl::Status RemovePause(const std::string& requester);
  // Pauses the VM for each device with a request that the host could not carry out.
  void PauseForErrors();
  // Has those requests tried again.
  void ContinueAfterErrors(ErrorOrder order);
  Standstill::Vm StandstillOperations();

  // --- On any thread
  // Calls `work` on the machine's thread, after earlier work, and passes its result to `done`;
  // Unavailable if the VM has ended.
  static constexpr char kClientPause[] = "";  // who asks for it, of AddPause(): no device's name
  static absl::Status EndingError() { return absl::UnavailableError("the VM is ending"); }
  void QueueCommand(std::function<absl::Status()> work, const Done& done);
  // The current hardware, or nullptr while there is none. It exists while its vCPU threads do, so
  // vCPU threads and the machine's thread may call this. Other threads must hold `hardware_mutex_`.
  GuestHardware* hardware() const;
  bool ParkWhilePaused(Waiter waiter);
  // If called more than once, the first reason counts.
  void RequestEnd(VmEnd end);
  // The devices that have not ended, each with its current step.
  std::string UnendedDevices() const;
  void PauseForDevice(absl::string_view device);
  void ResumeForDevice(absl::string_view device);
  void HoldForDevice(absl::string_view device, bool hold);
  // Errors: NotFound.
  absl::StatusOr<DeviceSupervisor*> FindDevice(absl::string_view name) const;
  void CommandDevice(absl::string_view name, Done done,
                     absl::FunctionRef<void(DeviceSupervisor&, Done)> command);
  v1::Device Describe(DeviceSupervisor& device) const;
  void SetTracing(bool on);

  const Settings settings_;
  std::atomic<EndWatchdog*> end_watchdog_ = nullptr;
  EventLog events_;
  VmState state_;
  std::unique_ptr<AccessTrace> access_trace_;
  std::atomic<bool> trace_runs_ = false;
  // In this order, so that each part outlives its users.
  GuestRam ram_;
  std::unique_ptr<RamCollapse> collapse_;  // may be nullptr
  const std::optional<DiskBootSpec> disk_boot_;
  // The machine's thread only. None: the disk's are found again at each boot.
  std::optional<BootSources> boot_sources_;
  std::unique_ptr<WorkQueue> work_;
  std::unique_ptr<VmEndLatch> end_;
  std::unique_ptr<Kvm> kvm_;
  Consoles consoles_;
  const GuestFaults guest_faults_;
  std::unique_ptr<VmLinks> links_;
  std::unique_ptr<ErrorLinks> error_links_;
  std::unique_ptr<ProcessMonitor> monitor_;
  std::vector<std::unique_ptr<DeviceSupervisor>> devices_;  // constant after Create()
  // Constant after Create().
  NetworkLinks network_links_;
  std::shared_ptr<BalloonSwitch> balloon_;  // nullptr: the VM has none
  std::string balloon_device_;

  // Used by the machine's thread only.
  Standstill standstill_;
  std::set<std::string> errors_;  // devices for which the VM is paused
  bool all_ended_ = false;

  mutable absl::Mutex hardware_mutex_;
  std::unique_ptr<GuestHardware> hardware_ ABSL_GUARDED_BY(hardware_mutex_);
  Booted booted_ ABSL_GUARDED_BY(hardware_mutex_);
  // A press of the power button, for the next boot.
  bool kept_press_ ABSL_GUARDED_BY(hardware_mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_MACHINE_H_
