#ifndef BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_THREAD_H_
#define BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_THREAD_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/config/vm_spec.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/process_monitor.h"
#include "vmm/remote_device/remote_device.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/command_queue.h"
#include "vmm/supervisor/device_clock.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/supervision.h"
#include "vmm/supervisor/supervisor_actions.h"
#include "vmm/supervisor/supervisor_options.h"

namespace bulkhead::vmm {

// The thread behind a DeviceSupervisor: turns what it sees into events of the state machine
// (supervision_table.h), and has the actions that follow carried out. Every wait has a limit; an
// exit, a command or the end of the VM interrupts what is less urgent (attention.h).
class SupervisorThread {
 public:
  // Starts the first process, then the thread. Errors: as DeviceSupervisor::Create().
  static absl::StatusOr<std::unique_ptr<SupervisorThread>> Create(DeviceSpec spec,
                                                                  const GuestRam& ram,
                                                                  ProcessMonitor& monitor,
                                                                  const SupervisorOptions& options);
  ~SupervisorThread();

  // Any thread.
  CommandQueue& commands() { return commands_; }
  // What it does at this moment, for a person who wonders what takes so long. "": it has ended.
  const char* step() const { return step_.load(std::memory_order_relaxed); }
  RemoteDevice& device() { return actions_.device(); }
  const DeviceReport& report() const { return actions_.report(); }

 private:
  SupervisorThread(const DeviceSpec& spec, ProcessMonitor& monitor,
                   const SupervisorOptions& options, std::shared_ptr<Attention> attention,
                   DeviceClock& clock);

  void Run();
  // Finds the most urgent event and dispatches it. False: there is none.
  bool LookAround();
  absl::Time NextTime() const;
  // `how`: empty if the process does not hang.
  void OnHang(absl::string_view how);
  void OnMisbehaviour(absl::string_view how);
  void Obey(SupervisorCommand command);
  // What a command wants beside a restart. False: it is answered.
  bool Change(SupervisorCommand& command);
  // Carries out what follows from `event`, until the device is at rest.
  void Dispatch(SupervisionEvent event);

  const std::string name_;
  const bool wants_spare_;
  const std::shared_ptr<Attention> attention_;
  CommandQueue commands_;
  Supervision supervision_;    // the thread's alone
  SupervisorActions actions_;  // the thread's alone, but for device() and report()
  absl::Time next_sending_;    // of the function state

  std::atomic<const char*> step_{"its start"};  // string literals

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_THREAD_H_
