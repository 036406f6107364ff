#ifndef BULKHEAD_VMM_PROCESS_SPAWN_THREADS_H_
#define BULKHEAD_VMM_PROCESS_SPAWN_THREADS_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/process/spawn_process.h"

namespace bulkhead::vmm {

// Starts processes on its own threads: clone(2) and execve(2) return when the program has been
// read, which may be never on a file system that hangs. Normally one thread starts all processes;
// further threads are added while it hangs. The threads live as long as this object, and when a
// thread ends the kernel kills the processes that it started. Thread-safe.
class SpawnThreads {
 public:
  static constexpr size_t kMaxThreads = 33;

  // Errors: as pthread_create(3).
  static absl::StatusOr<std::unique_ptr<SpawnThreads>> Create(ProcessSpawner::Isolation best);
  // Kills the processes that it has started. Does not wait: a start that hangs is killed when it
  // returns.
  ~SpawnThreads();

  // Waits for `timeout` at most; a process that starts later is killed. While an abandoned start of
  // a program hangs, further starts of it fail at once. `cancelled` is called now and then; true
  // ends the wait. Errors: DeadlineExceeded, Unavailable (an earlier start still hangs, or Stop()),
  // Cancelled, else as ProcessSpawner::Spawn().
  absl::StatusOr<SpawnedProcess> Spawn(const ProcessSpec& spec, absl::Duration timeout,
                                       const std::function<bool()>& cancelled);
  // Makes Spawn() fail from now on, also calls that wait. Returns at once.
  void Stop();
  // Why the isolation is no better. OK if it is `best`.
  absl::Status obstacle() const;

 private:
  struct Job;
  struct State;
  explicit SpawnThreads(std::shared_ptr<State> state) : state_(std::move(state)) {}

  // Returns an error of pthread_create(3), or 0.
  static int StartThread(const std::shared_ptr<State>& state);
  static void Run(State& state);

  const std::shared_ptr<State> state_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PROCESS_SPAWN_THREADS_H_
