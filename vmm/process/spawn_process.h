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
  // Become descriptors 0, 1, 2, ... of the process, which has no others; but a script has itself
  // as one more. Borrowed.
  std::vector<int> descriptors;
};

struct SpawnedProcess;

// Starts processes, without copying this one's page tables: the vmm is large and has many threads.
//
// A process begins in a session of its own (the terminal's signals are for the vmm alone), with no
// signal blocked or ignored, and leaves no core file. It is init (pid 1) of a PID namespace of its
// own: when it dies, the kernel kills whatever it has forked, before its pidfd says that it is
// dead. As init it is spared signals that it has no handler for, but for SIGKILL, SIGSTOP, and
// faults of its own. It is killed when the *thread* that started it ends, unless it renounces that
// by prctl(2): start processes on a thread that lives as long as they shall.
//
// Thread-safe.
class ProcessSpawner {
 public:
  // How a process is kept together with what it forks, best first.
  enum class Isolation {
    kPidNamespace,         // takes CAP_SYS_ADMIN
    kUserAndPidNamespace,  // for an ordinary user; the process keeps its user and group
    kNone,                 // what it has forked outlives it
  };

  // Tries no better isolation than `best`.
  explicit ProcessSpawner(Isolation best = Isolation::kPidNamespace) : isolation_(best) {}

  // Blocks until the new program runs, which takes as long as its file system does. The first
  // process that starts settles the isolation for all: the best that this host allows. Errors: as
  // clone(2) and execve(2), naming the binary.
  absl::StatusOr<SpawnedProcess> Spawn(const ProcessSpec& spec);

  // Why the isolation is no better; OK: it is the best.
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
