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

// Starts processes on threads of its own: clone(2) and execve(2) come back when the program has
// been read, which a file system that hangs may never let them. One thread starts them all, as long
// as it does come back; others join it if not. They last as long as this object, and the kernel
// kills with a thread the processes that it started. Thread-safe.
class SpawnThreads {
 public:
  static constexpr size_t kMaxThreads = 33;

  // Errors: as pthread_create(3).
  static absl::StatusOr<std::unique_ptr<SpawnThreads>> Create(ProcessSpawner::Isolation best);
  // Kills what it has started. Does not wait: a start that has not come back yet is killed when it
  // does.
  ~SpawnThreads();

  // Waits for `timeout` at most; what comes later is killed. While a start of a program has not
  // come back, the next one of that program fails at once. `cancelled` is asked now and then: to
  // wait no longer. Errors: DeadlineExceeded, Unavailable (an earlier start has not come back, or
  // Stop()), Cancelled, else as ProcessSpawner::Spawn().
  absl::StatusOr<SpawnedProcess> Spawn(const ProcessSpec& spec, absl::Duration timeout,
                                       const std::function<bool()>& cancelled);
  // Spawn() fails from now on, also where it waits. Returns at once.
  void Stop();
  // Why processes are isolated no better; OK: it is the best.
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
