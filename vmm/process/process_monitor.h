#ifndef BULKHEAD_VMM_PROCESS_PROCESS_MONITOR_H_
#define BULKHEAD_VMM_PROCESS_PROCESS_MONITOR_H_

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/pid_fd.h"
#include "base/steady_cond_var.h"
#include "base/unique_fd.h"
#include "vmm/launcher/launcher.h"
#include "vmm/sandbox/cgroup.h"
#include "vmm/sandbox/process_sandbox.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {

// Receives the events of one process. Called on the monitor's thread, which all processes share: a
// call that blocks delays the events of other processes.
class ProcessObserver {
 public:
  virtual ~ProcessObserver() = default;

  virtual void OnOutput(absl::string_view bytes) = 0;
  // It tried what its sandbox does not allow, and is killed. `what`: for people.
  virtual void OnViolation(absl::string_view what) = 0;
  // The process is dead. Called at once, before its last output has been read.
  virtual void OnExit(const ExitInfo& exit) = 0;
  // All output has been read. The last call; after OnExit().
  virtual void OnOutputEnd() = 0;
};

// A process that a ProcessMonitor started. Thread-safe.
class MonitoredProcess {
 public:
  pid_t pid() const { return process_.pid(); }
  SandboxLayers layers() const { return layers_; }
  void Kill() const { process_.Signal(SIGKILL).IgnoreError(); }
  // Waits until the process is dead and its observer's last call has returned. The observer must
  // not call it. Errors: DeadlineExceeded.
  absl::StatusOr<ExitInfo> WaitForExit(absl::Duration timeout) const;

 private:
  friend class ProcessMonitor;

  MonitoredProcess(LaunchedProcess launched, const ProcessSandbox& sandbox, UniqueFd output,
                   std::shared_ptr<ProcessObserver> observer)
      : process_(std::move(launched.process)),
        layers_(sandbox.layers),
        cgroup_(sandbox.cgroup),
        violations_(std::move(launched.violations)),
        output_(std::move(output)),
        observer_(std::move(observer)) {}

  const PidFd process_;
  const SandboxLayers layers_;
  const std::shared_ptr<const Cgroup> cgroup_;  // null: none of its own
  // The monitor's thread only.
  UniqueFd violations_;
  UniqueFd output_;
  std::shared_ptr<ProcessObserver> observer_;
  absl::Time window_ends_ = absl::InfinitePast();
  size_t bytes_in_window_ = 0;

  mutable absl::Mutex mutex_;
  mutable SteadyCondVar ended_;
  std::optional<ExitInfo> exit_ ABSL_GUARDED_BY(mutex_);
};

// Starts processes, reads their output, kills those that violate their sandbox, and reports at once
// when one dies. One thread serves all processes. Thread-safe.
class ProcessMonitor {
 public:
  // The most output of one process that is read in kWindow, give or take a read. What it prints
  // beyond that waits in its pipe.
  static constexpr size_t kMaxBytesInWindow = 128 * 1024;
  static constexpr absl::Duration kWindow = absl::Milliseconds(100);

  // `on_launcher_end`: called once, on the monitor's thread, if the launcher dies, and with it all
  // processes. Errors: as open(2) of /dev/null, epoll_create1(2), eventfd(2), pthread_create(3).
  static absl::StatusOr<std::unique_ptr<ProcessMonitor>> Create(
      std::unique_ptr<Launcher> launcher, std::function<void()> on_launcher_end = [] {});
  // Kills all processes and waits for their deaths, for two seconds at most.
  ~ProcessMonitor();

  // /dev/null, for the standard input of processes.
  int null_device() const { return null_device_.get(); }
  const Launcher& launcher() const { return *launcher_; }

  // Starts a process. `output` is the read end of the pipe that it writes to; non-blocking.
  // Limits and errors: as Launcher::Launch(). On an error the observer is never called.
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> Start(const ProcessSpec& spec, UniqueFd output,
                                                          std::shared_ptr<ProcessObserver> observer,
                                                          const Launcher::Limits& limits = {});

  // Kills all processes, for the end of the vmm, and refuses further starts. Returns at once.
  void KillAll();

 private:
  // A started process that the monitor's thread has yet to adopt.
  struct Arrival {
    std::shared_ptr<MonitoredProcess> process;
    std::optional<absl::Status> result;
  };

  ProcessMonitor(UniqueFd null_device, UniqueFd epoll, EventFd wake_up,
                 std::unique_ptr<Launcher> launcher, std::function<void()> on_launcher_end)
      : null_device_(std::move(null_device)),
        epoll_(std::move(epoll)),
        wake_up_(std::move(wake_up)),
        launcher_(std::move(launcher)),
        on_launcher_end_(std::move(on_launcher_end)) {}

  void Run();
  // Waits for events, for `limit_ms` at most (-1: no limit), and handles them.
  void HandleEvents(int limit_ms);
  // `events`: as of epoll_wait(2).
  void HandleEvent(uint64_t key, uint32_t events);
  // Kills all processes and waits for their deaths until kEndTimeout.
  void EndAll();
  // Adopts the started processes. True: no more will arrive.
  bool TakeArrivals();
  absl::Status Adopt(const std::shared_ptr<MonitoredProcess>& process);
  void ReadOutput(MonitoredProcess& process);
  // The same, but a process that has printed too much is not read until its window ends.
  void ReadOutputWithin(uint64_t id, MonitoredProcess& process);
  void ResumeReading();
  void ReadViolation(MonitoredProcess& process);
  void CloseViolations(MonitoredProcess& process);
  void Reap(uint64_t id);

  const UniqueFd null_device_;
  const UniqueFd epoll_;
  const EventFd wake_up_;

  // The monitor's thread only. An id is never used again, so a stale event finds nothing.
  std::map<uint64_t, std::shared_ptr<MonitoredProcess>> processes_;
  uint64_t next_id_ = 1;
  std::set<uint64_t> traced_;  // dead, but not reapable until their tracer releases them
  std::set<uint64_t> muted_;   // not read until their windows end
  const std::unique_ptr<Launcher> launcher_;
  const std::function<void()> on_launcher_end_;

  absl::Mutex mutex_;
  std::deque<Arrival*> arrivals_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_PROCESS_MONITOR_H_
