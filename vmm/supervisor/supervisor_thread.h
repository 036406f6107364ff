#ifndef BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_THREAD_H_
#define BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_THREAD_H_

#include <stdint.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "vmm/config/program_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/control_client.h"
#include "vmm/process/device_process.h"
#include "vmm/process/process_monitor.h"
#include "vmm/remote_device/remote_device.h"
#include "vmm/supervisor/absence.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/device_report.h"
#include "vmm/supervisor/heartbeats.h"
#include "vmm/supervisor/host_shortage.h"
#include "vmm/supervisor/process_starter.h"
#include "vmm/supervisor/restart_policy.h"
#include "vmm/supervisor/spare.h"
#include "vmm/supervisor/supervisor_options.h"

namespace bulkhead::vmm {

// The thread behind a DeviceSupervisor. It looks at all there is to do, does the most pressing
// thing, and looks again (DoNext()). Whatever it does, it waits for nobody without a limit; a
// death, a command, or the end of the VM interrupts what is less pressing (attention.h).
//
// What holds at every moment: at most one process has the device's descriptors (`process_`, or the
// one that Attach() is handing them to), and no other gets them before that one is dead and waited
// for. A process that does not die although killed keeps its device away, and does no other harm.
class SupervisorThread {
 public:
  struct Command {
    enum class Kind { kRestart, kReset, kStop, kStart, kResetForReboot };
    Kind kind;
    std::string binary = "";  // a path; empty: the one that the device has
    bool discard_state = false;
    std::function<void(absl::Status)> done;
  };

  // Starts the first process, then the thread. Errors: as DeviceSupervisor::Create().
  static absl::StatusOr<std::unique_ptr<SupervisorThread>> Create(DeviceSpec spec,
                                                                  const GuestRam& ram,
                                                                  ProcessMonitor& monitor,
                                                                  const SupervisorOptions& options);
  ~SupervisorThread();

  // Any thread.
  void Give(Command command);
  void Shutdown();
  void AwaitShutdown();
  // What it does at this moment, for a person who wonders what takes so long. "": it has ended.
  const char* step() const { return step_.load(std::memory_order_relaxed); }
  RemoteDevice& device() { return *device_; }
  const DeviceReport& report() const { return report_; }

 private:
  using State = v1::Device::State;
  using Urgency = Attention::Urgency;

  SupervisorThread(const DeviceSpec& spec, ProcessMonitor& monitor,
                   const SupervisorOptions& options, std::shared_ptr<Attention> attention);
  absl::Status StartFirst(DeviceSpec& spec, const GuestRam& ram);

  // --- supervisor_thread.cc: what there is to do
  void Run();
  // Does the most pressing thing. False: there is none.
  bool DoNext();
  absl::Time NextTime() const;
  bool ending() const;
  std::optional<Command> TakeCommand();
  void End();

  // --- process_changes.cc: from one process to the next
  // May a process go on from the device's state, or, with `discard_state`, replace it?
  absl::Status CheckFit(const Candidate& candidate, bool discard_state) const;
  // Hands the device over: there is no process, and if this returns OK there is. Cancelled: a
  // demand of at least `least` came first. Aborted: the channel is in use, try again in a moment.
  // With `beside`, the candidate is a spare, which may hang: where it does not serve at once, a
  // fresh process is started into `beside`, and the spare is given up if that is there first.
  absl::Status Attach(Candidate candidate, Urgency least,
                      absl::StatusOr<Candidate>* beside = nullptr);
  absl::Status AttachProcess(Candidate candidate, Urgency least, absl::StatusOr<Candidate>* beside);
  // Makes the channel and the saved state fit for the next process, and has accesses wait for it.
  // Aborted: as Attach().
  absl::Status PrepareForSuccessor();
  void BeginServing();
  // `process_` has ended, or is killed, `planned` or not: waits for it, and tells how it ended.
  // None: it does not die; when it does, OnLoss() hears of it.
  std::optional<DeviceProcessEnd> Bury(bool planned);
  // Lets `process_` come to rest, so that a successor need not repair anything, and ends it. False:
  // as Bury().
  bool Retire(absl::string_view reason);
  // `process_` has ended, or was killed for a fault of its own.
  void OnLoss();
  // A process ran and could not be brought to serve.
  void OnFailedStart(const absl::Status& why);
  // The host could not start or attach one: no fault of the device.
  void OnShortage(const absl::Status& why);
  void FollowPolicy(absl::Duration served, bool clean, const std::string& what);
  void TryRestart(Urgency least);
  bool FitsNow(const Candidate& spare) const;
  void AfterFailedTry(const absl::Status& why);

  // What the guest's accesses meet from now on: the policy, all ones, the device.
  void GoAway(const std::string& why);
  void FailAccesses(const std::string& why);
  void ComeBack();

  // --- commands.cc
  absl::Status Perform(const Command& command);
  absl::Status Restart(const std::string& path, bool discard_state);
  absl::StatusOr<Candidate> StartSuccessor(const ProgramFile& binary);
  absl::Status Unfit(const absl::Status& why) const;
  absl::Status Reset(absl::string_view by, bool discard_requests);
  absl::Status Stop();
  absl::Status Start();
  absl::Status DiscardNow(bool discard_requests);

  // One call to the process, which only the end of the VM interrupts.
  absl::Status CallProcess(absl::Status (ControlClient::*method)(ControlCall&),
                           absl::Duration timeout);
  void SetState(State state, const std::string& reason);

  const std::string name_;
  const AccessPolicy access_policy_;
  const absl::Duration access_timeout_;
  const bool wants_spare_;
  const SupervisorOptions options_;
  const std::shared_ptr<Attention> attention_;
  const ProcessStarter starter_;
  DeviceReport report_;
  // Set before the thread starts.
  std::unique_ptr<RemoteDevice> device_;
  std::unique_ptr<Absence> absence_;  // before `device_` goes, this has gone

  // The thread's alone.
  State state_ = v1::Device::STARTING;
  std::string state_reason_;
  ProgramFile binary_;          // of the next process
  uint32_t state_version_ = 0;  // PciInfo.state_version of who served last
  uint64_t generation_ = 0;
  std::unique_ptr<DeviceProcess> process_;
  absl::Time served_since_;
  absl::Time away_since_;                         // while none serves
  absl::Time next_try_ = absl::InfiniteFuture();  // while RESTARTING
  absl::Time next_telling_;                       // of the function state
  bool discard_state_ = false;                    // before the next attachment
  bool discard_requests_ = false;
  bool vm_paused_ = false;  // by us
  std::minstd_rand random_;
  RestartPolicy policy_;
  HostShortage shortage_;
  Heartbeats heartbeats_;
  Spare spare_;

  std::atomic<const char*> step_{"its start"};  // string literals

  mutable absl::Mutex mutex_;
  std::deque<Command> commands_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_THREAD_H_
