#include "vmm/process/spawn_threads.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {
namespace {

// A start takes a millisecond: a job that has not begun after this time waits for one that hangs.
constexpr absl::Duration kCheckInterval = absl::Milliseconds(100);
// For a process that started too late and was killed.
constexpr absl::Duration kKillTimeout = absl::Minutes(1);

}  // namespace

struct SpawnThreads::Job {
  ProcessSpec spec;
  std::vector<UniqueFd> descriptors;  // those of `spec`
  bool taken = false;
  bool abandoned = false;
  std::optional<absl::StatusOr<SpawnedProcess>> result;
};

// Shared by the object and its threads, which may outlive it.
struct SpawnThreads::State {
  explicit State(ProcessSpawner::Isolation best) : spawner(best) {}

  ProcessSpawner spawner;  // thread-safe
  absl::Mutex mutex;
  SteadyCondVar changed;  // wakes callers that wait for a result
  SteadyCondVar work;     // wakes the threads
  std::deque<std::shared_ptr<Job>> waiting ABSL_GUARDED_BY(mutex);
  std::multiset<std::string> abandoned ABSL_GUARDED_BY(mutex);  // paths of such jobs
  size_t threads ABSL_GUARDED_BY(mutex) = 0;
  size_t idle ABSL_GUARDED_BY(mutex) = 0;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  bool ending ABSL_GUARDED_BY(mutex) = false;
};

absl::StatusOr<std::unique_ptr<SpawnThreads>> SpawnThreads::Create(ProcessSpawner::Isolation best) {
  auto state = std::make_shared<State>(best);
  {
    absl::MutexLock lock(&state->mutex);
    if (const int error = StartThread(state); error != 0) {
      return ErrnoToStatus(error, "starting the thread that starts processes");
    }
  }
  return std::unique_ptr<SpawnThreads>(new SpawnThreads(std::move(state)));
}

SpawnThreads::~SpawnThreads() {
  absl::MutexLock lock(&state_->mutex);
  state_->ending = true;
  state_->work.SignalAll();
}

int SpawnThreads::StartThread(const std::shared_ptr<State>& state) {
  state->mutex.AssertHeld();
  const int error = StartDetachedThread("device-spawn", [state] { Run(*state); });
  if (error == 0) ++state->threads;
  return error;
}

void SpawnThreads::Stop() {
  absl::MutexLock lock(&state_->mutex);
  state_->stopped = true;
  state_->changed.SignalAll();
}

absl::Status SpawnThreads::obstacle() const { return state_->spawner.obstacle(); }

absl::StatusOr<SpawnedProcess> SpawnThreads::Spawn(const ProcessSpec& spec, absl::Duration timeout,
                                                   const std::function<bool()>& cancelled) {
  const auto job = std::make_shared<Job>();
  job->spec = spec;
  for (int& fd : job->spec.descriptors) {  // the caller's may be closed before they are used
    job->descriptors.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    fd = job->descriptors.back().get();
    if (fd < 0) return ErrnoToStatus(errno, "F_DUPFD_CLOEXEC");
  }
  State& state = *state_;
  const absl::Time deadline = SteadyNow() + timeout;
  absl::MutexLock lock(&state.mutex);
  if (state.abandoned.count(spec.binary.path()) != 0) {
    return absl::UnavailableError(
        absl::StrCat("starting ", spec.binary.path(),
                     ": an earlier start still waits for the program's file system"));
  }
  state.waiting.push_back(job);
  state.work.Signal();
  absl::Status why = absl::DeadlineExceededError(
      absl::StrCat("starting ", spec.binary.path(), ": the program's file system does not answer"));
  while (true) {
    if (job->result.has_value()) return *std::move(job->result);
    if (state.stopped) why = absl::UnavailableError("the VM is ending");
    if (state.stopped || SteadyNow() >= deadline) break;
    state.changed.WaitUntil(&state.mutex, std::min(deadline, SteadyNow() + kCheckInterval));
    if (job->result.has_value()) continue;
    if (cancelled && cancelled()) {
      why = absl::CancelledError(absl::StrCat("starting ", spec.binary.path(), ": cancelled"));
      break;
    }
    if (!job->taken && state.idle == 0 && state.threads < kMaxThreads) StartThread(state_);
  }
  if (job->taken) {
    job->abandoned = true;
    state.abandoned.insert(spec.binary.path());
  } else {
    state.waiting.erase(std::find(state.waiting.begin(), state.waiting.end(), job));
  }
  return why;
}

void SpawnThreads::Run(State& state) {
  absl::MutexLock lock(&state.mutex);
  while (true) {
    ++state.idle;
    while (state.waiting.empty() && !state.ending) state.work.Wait(&state.mutex);
    --state.idle;
    if (state.ending) return;
    const std::shared_ptr<Job> job = std::move(state.waiting.front());
    state.waiting.pop_front();
    job->taken = true;
    state.mutex.Unlock();
    absl::StatusOr<SpawnedProcess> spawned = state.spawner.Spawn(job->spec);
    state.mutex.Lock();
    if (!job->abandoned) {
      job->result = std::move(spawned);
      state.changed.SignalAll();
      continue;
    }
    state.mutex.Unlock();
    if (spawned.ok()) {
      spawned->process.Signal(SIGKILL).IgnoreError();
      spawned->process.Wait(kKillTimeout).status().IgnoreError();
    }
    state.mutex.Lock();
    state.abandoned.erase(state.abandoned.find(job->spec.binary.path()));
  }
}

}  // namespace bulkhead::vmm
