#ifndef BULKHEAD_VMM_REMOTE_DEVICE_PROCESS_MONITOR_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_PROCESS_MONITOR_H_

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

#include <deque>
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
#include "vmm/remote_device/spawn_process.h"

namespace bulkhead::vmm {

// What happens to one process. Called on the monitor's thread, which all processes share: a
// call that blocks delays the news of other deaths.
class ProcessObserver {
 public:
  virtual ~ProcessObserver() = default;

  virtual void OnOutput(absl::string_view bytes) = 0;
  // It is dead. Called at once, before its last output.
  virtual void OnExit(const ExitInfo& exit) = 0;
  // All output has been seen. The last call; after OnExit().
  virtual void OnOutputEnd() = 0;
};

// A process that a ProcessMonitor started. Thread-safe.
class MonitoredProcess {
 public:
  pid_t pid() const { return process_.pid(); }
  ProcessSpawner::Isolation isolation() const { return isolation_; }
  void Kill() const { process_.Signal(SIGKILL).IgnoreError(); }
  // Waits until the process is dead and its observer's last call has returned. Not for the
  // observer. Errors: DeadlineExceeded.
  absl::StatusOr<ExitInfo> WaitForExit(absl::Duration timeout) const;

 private:
  friend class ProcessMonitor;

  MonitoredProcess(PidFd process, ProcessSpawner::Isolation isolation, UniqueFd output,
                   std::shared_ptr<ProcessObserver> observer)
      : process_(std::move(process)),
        isolation_(isolation),
        output_(std::move(output)),
        observer_(std::move(observer)) {}

  const PidFd process_;
  const ProcessSpawner::Isolation isolation_;
  // The monitor's thread only.
  UniqueFd output_;
  std::shared_ptr<ProcessObserver> observer_;

  mutable absl::Mutex mutex_;
  mutable SteadyCondVar ended_;
  std::optional<ExitInfo> exit_ ABSL_GUARDED_BY(mutex_);
};

// Starts processes, reads what they print, and notices at once when one dies. One thread for
// all, which is also the one that the kernel takes for their parent: it ends them when it ends.
// Thread-safe.
class ProcessMonitor {
 public:
  using Isolation = ProcessSpawner::Isolation;

  // Processes are isolated as well as the host allows, but no better than `best`. Errors: as
  // open(2) of /dev/null, epoll_create1(2), eventfd(2).
  static absl::StatusOr<std::unique_ptr<ProcessMonitor>> Create(
      Isolation best = Isolation::kPidNamespace);
  // Kills what still runs, and waits for it, for two seconds at most.
  ~ProcessMonitor();

  // /dev/null, opened once: for the standard input of processes.
  int null_device() const { return null_device_.get(); }

  // Starts a process. `output` is the read end of the pipe that it writes to; non-blocking.
  // Errors: as ProcessSpawner::Spawn(); then the observer is never called.
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> Start(
      const ProcessSpec& spec, UniqueFd output, std::shared_ptr<ProcessObserver> observer);

  // Kills all processes, for the end of the vmm: none is started any more. Returns at once.
  void KillAll();

 private:
  struct StartRequest {
    const ProcessSpec& spec;
    UniqueFd output;
    std::shared_ptr<ProcessObserver> observer;
    std::optional<absl::StatusOr<std::shared_ptr<MonitoredProcess>>> result;
  };

  ProcessMonitor(UniqueFd null_device, UniqueFd epoll, EventFd wake_up, Isolation best)
      : null_device_(std::move(null_device)),
        epoll_(std::move(epoll)),
        wake_up_(std::move(wake_up)),
        spawner_(best) {}

  void Run();
  // Waits until something happens, for `limit_ms` at most (-1: no limit), and sees to it.
  void HandleEvents(int limit_ms);
  void HandleEvent(uint64_t key);
  // Kills everything and waits for it until the deadline.
  void EndAll();
  void ServeStartRequests();
  absl::StatusOr<std::shared_ptr<MonitoredProcess>> StartHere(StartRequest& request);
  void ReadOutput(MonitoredProcess& process);
  void Reap(uint64_t id, std::shared_ptr<MonitoredProcess> process);
  void ReportIsolation();

  const UniqueFd null_device_;
  const UniqueFd epoll_;
  const EventFd wake_up_;

  // The monitor's thread only. An id is never used again, so a stale event finds nothing.
  std::map<uint64_t, std::shared_ptr<MonitoredProcess>> processes_;
  uint64_t next_id_ = 1;
  std::set<uint64_t> held_;  // dead, but a process that traces them has to let go of them first
  ProcessSpawner spawner_;
  bool isolation_reported_ = false;

  absl::Mutex mutex_;
  std::deque<StartRequest*> start_requests_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_PROCESS_MONITOR_H_
