#ifndef BULKHEAD_VMM_PROCESS_SPAWN_PROCESS_H_
#define BULKHEAD_VMM_PROCESS_SPAWN_PROCESS_H_

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/pid_fd.h"
#include "vmm/config/program_file.h"

namespace bulkhead::vmm {

// A process to start.
struct ProcessSpec {
  ProgramFile binary;
  std::vector<std::string> args;         // after argv[0], which is the path of `binary`
  std::vector<std::string> environment;  // "NAME=value", and nothing else
  // Become descriptors 0, 1, 2, ... of the process, which has no others, except that a script also
  // has itself as the next one. Borrowed.
  std::vector<int> descriptors;
};

struct SpawnedProcess;

// Starts processes without copying the vmm's page tables: the vmm is large and has many threads.
//
// A process begins in its own session (only the vmm gets the terminal's signals), with no signal
// blocked or ignored, and leaves no core file. It is init (pid 1) of its own PID namespace: when
// it dies, the kernel kills everything that it has forked before its pidfd reports its death. As
// init it does not get signals that it has no handler for, except SIGKILL, SIGSTOP, and its own
// faults. It is killed when the *thread* that started it ends, unless it disables that by
// prctl(2): start processes on a thread that lives long enough.
//
// Thread-safe.
class ProcessSpawner {
 public:
  // How the processes that a process forks are made to die with it, best first.
  enum class Isolation {
    kPidNamespace,         // needs CAP_SYS_ADMIN
    kUserAndPidNamespace,  // for an ordinary user; the process keeps its user and group
    kNone,                 // forked processes outlive it
  };

  // Tries no better isolation than `best`.
  explicit ProcessSpawner(Isolation best = Isolation::kPidNamespace) : isolation_(best) {}

  // Blocks until the new program runs, for as long as its file system takes. The first successful
  // start decides the isolation for all: the best that this host allows. Errors: as clone(2) and
  // execve(2), naming the binary.
  absl::StatusOr<SpawnedProcess> Spawn(const ProcessSpec& spec);

  // Why the isolation is no better. OK if it is `best`.
  absl::Status obstacle() const;

 private:
  // `forbidden`: the error means that this host does not allow the isolation.
  static absl::StatusOr<PidFd> SpawnInside(const ProcessSpec& spec, Isolation isolation,
                                           bool& forbidden);

  mutable absl::Mutex mutex_;
  Isolation isolation_ ABSL_GUARDED_BY(mutex_);
  bool settled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status obstacle_ ABSL_GUARDED_BY(mutex_);
};

struct SpawnedProcess {
  PidFd process;
  ProcessSpawner::Isolation isolation;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_SPAWN_PROCESS_H_
