#ifndef BULKHEAD_VMM_LAUNCHER_LAUNCHER_H_
#define BULKHEAD_VMM_LAUNCHER_LAUNCHER_H_

#include <stdint.h>
#include <sys/types.h>

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"
#include "vmm/config/program_file.h"
#include "vmm/sandbox/process_sandbox.h"

namespace bulkhead::vmm {

// A process to start.
struct ProcessSpec {
  ProgramFile binary;
  std::vector<std::string> args;         // after argv[0], which is the path of `binary`
  std::vector<std::string> environment;  // "NAME=value", and nothing else
  // Become descriptors 0, 1, 2, ... of the process, which has no others, except that a script also
  // has itself as the next one. Borrowed.
  std::vector<int> descriptors;
  ProcessSandbox sandbox;
};

struct LaunchedProcess {
  PidFd process;
  // Readable when the process has made a system call that its filter does not allow: see
  // seccomp_unotify(2). The calling thread stands still until it is answered. Empty: no filter.
  UniqueFd violations;
};

// Starts processes by the launcher, a process of one thread without guest memory or devices, which
// has the right to make namespaces. The processes are children of this one, which reaps them.
//
// The launcher lives in a PID namespace of its own, with an init that kills whatever is in the
// namespace when this process or the launcher ends. So nothing that was started outlives this
// process, whatever it does.
//
// A process begins in its own session (only the vmm gets the terminal's signals), with no signal
// blocked or ignored, and leaves no core file. With the layer "pid" it is init (pid 1) of its own
// PID namespace: when it dies, the kernel kills everything that it has forked before its pidfd
// reports its death. As init it does not get signals that it has no handler for, except SIGKILL,
// SIGSTOP, and its own faults.
//
// Thread-safe.
class Launcher {
 public:
  // Starts the launcher. Call it before this process has threads: the launcher is a copy of it.
  // `argv`: main()'s, for the launcher's name in `ps`. Errors: as fork(2), clone3(2), and open(2)
  // of /proc.
  static absl::StatusOr<std::unique_ptr<Launcher>> Start(char** argv = nullptr);
  // Kills the launcher and every process that it has started. Waits for the launcher.
  ~Launcher();

  struct Limits {
    absl::Duration timeout = absl::Seconds(10);
    std::function<bool()> cancelled;  // called now and then; none: never
  };
  // Blocks until the new program runs, which may take as long as its file system takes. After an
  // error the process is dead, or dies as soon as it can. Errors: DeadlineExceeded, Cancelled,
  // Unavailable (Stop(), the launcher is dead, or an earlier start of this program still waits for
  // its file system), FailedPrecondition (this host lacks a layer: says which, and how to do
  // without), else as clone3(2) and execve(2), naming the binary.
  absl::StatusOr<LaunchedProcess> Launch(const ProcessSpec& spec, const Limits& limits);
  // What init removes when this process is dead, if there is an init. Call these before Seal().
  // Errors: as open(2), send(2).
  // The file of a socket, which exists.
  absl::Status RemoveSocketAtEnd(const std::string& path);
  // Control groups in `folder`, also when this process ends in order: then init outlives it for a
  // moment. The first is this process's own, which init leaves first: for `origin`, cgroup.procs of
  // another one (-1: none).
  absl::Status RemoveGroupsAtEnd(const std::string& folder, const std::vector<std::string>& names,
                                 int origin);
  // From now on the launcher starts only processes that have these layers, and, if "uid" is one of
  // them, one of the users from `first_uid` on. Holds even if this process is taken over. Call it
  // before Launch(), once. Errors: as send(2).
  absl::Status Seal(SandboxLayers layers, uint32_t first_uid, uint32_t uids);
  // Ends all calls of Launch(), and later ones.
  void Stop();

  // Readable (POLLIN) once the launcher is dead: no further process can be started, and those that
  // were are killed.
  int exit_fd() const { return launcher_.fd(); }
  pid_t pid() const { return launcher_.pid(); }
  // Of the launcher and its init.
  std::vector<pid_t> pids() const;
  // Whether this process's user is one of many for the launcher, so that it can give processes
  // other users.
  bool is_root() const { return is_root_; }

 private:
  struct Step;

  Launcher(UniqueFd socket, UniqueFd lifeline, EventFd stop, PidFd launcher,
           std::unique_ptr<PidFd> init, bool is_root, absl::Status obstacle)
      : socket_(std::move(socket)),
        lifeline_(std::move(lifeline)),
        stop_(std::move(stop)),
        launcher_(std::move(launcher)),
        init_(std::move(init)),
        is_root_(is_root),
        obstacle_(std::move(obstacle)) {}

  absl::Status Send(const ProcessSpec& spec, int status, const Limits& limits, absl::Time deadline);
  // Waits until `fd` has `events`. Errors: as Launch().
  absl::Status Await(int fd, int16_t events, const ProcessSpec& spec, const Limits& limits,
                     absl::Time deadline);
  // The next report on `status`; false: none comes, its other ends are closed.
  absl::StatusOr<bool> Receive(int status, const ProcessSpec& spec, const Limits& limits,
                               absl::Time deadline, Step& step);
  absl::Status Refusal(const ProcessSpec& spec, const Step& step) const;
  // Kills a process that was not started in time.
  void Abandon(const std::string& path, PidFd process);
  bool HasAbandoned(const std::string& path);

  const UniqueFd socket_;
  UniqueFd lifeline_;
  const EventFd stop_;
  const PidFd launcher_;
  const std::unique_ptr<PidFd> init_;  // null: no PID namespace
  const bool is_root_;
  bool has_groups_ = false;
  const absl::Status obstacle_;  // why there is no PID namespace

  absl::Mutex mutex_;
  // Killed, but not dead yet: the path of the binary and the process.
  std::list<std::pair<std::string, PidFd>> abandoned_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_LAUNCHER_LAUNCHER_H_
