#include "vmm/machine/start_guard.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {
namespace {

// Time for killed device processes to be dead, and for the last line to be written. SIGTERM during
// the start must end the vmm within 100 ms.
constexpr absl::Duration kKillTimeout = absl::Milliseconds(40);
constexpr absl::Duration kLastLineTimeout = absl::Milliseconds(30);

// Kills the children of all threads. (Each child also dies with its thread, but a moment later.)
void KillChildren() {
  DIR* const tasks = opendir("/proc/self/task");
  if (tasks == nullptr) return;
  while (const dirent* task = readdir(tasks)) {
    const std::string path = absl::StrCat("/proc/self/task/", task->d_name, "/children");
    FILE* const children = fopen(path.c_str(), "re");
    if (children == nullptr) continue;
    for (int pid = 0; fscanf(children, "%d", &pid) == 1;) kill(pid, SIGKILL);
    fclose(children);
  }
  closedir(tasks);
}

// Reaps children until none is left. Other threads may reap them, too.
void AwaitChildren(absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  while (SteadyNow() < deadline) {
    const pid_t ended = waitpid(-1, nullptr, WNOHANG);
    if (ended < 0 && errno == ECHILD) return;
    if (ended == 0) poll(nullptr, 0, 1);
  }
}

}  // namespace

// Also used by the thread, which is never joined, so that nothing waits for it.
struct StartGuard::Shared {
  Shared(int fd_in, std::function<std::optional<VmEnd>()> take_in, EventFd over_in)
      : fd(fd_in), take(std::move(take_in)), over(std::move(over_in)) {}

  void Run();

  const int fd;
  const std::function<std::optional<VmEnd>()> take;
  const EventFd over;
  absl::Mutex mutex;
  bool is_over ABSL_GUARDED_BY(mutex) = false;
  std::function<void()> exit_action ABSL_GUARDED_BY(mutex);

  [[noreturn]] void Exit(const VmEnd& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
};

absl::StatusOr<std::unique_ptr<StartGuard>> StartGuard::Begin(
    int fd, std::function<std::optional<VmEnd>()> take) {
  ASSIGN_OR_RETURN(EventFd over, EventFd::Create());
  auto shared = std::make_shared<Shared>(fd, std::move(take), std::move(over));
  if (const int error = StartDetachedThread("start-guard", [shared] { shared->Run(); });
      error != 0) {
    return ErrnoToStatus(error, "starting the start guard's thread");
  }
  return std::unique_ptr<StartGuard>(new StartGuard(std::move(shared)));
}

StartGuard::StartGuard(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

StartGuard::~StartGuard() {
  {
    absl::MutexLock lock(&shared_->mutex);  // blocks for ever if the thread is in Exit()
    shared_->is_over = true;
  }
  shared_->over.Signal();
}

void StartGuard::SetExitAction(std::function<void()> action) {
  absl::MutexLock lock(&shared_->mutex);
  shared_->exit_action = std::move(action);
}

void StartGuard::Shared::Run() {
  while (true) {
    pollfd polled[] = {{.fd = fd, .events = POLLIN, .revents = 0},
                       {.fd = over.fd(), .events = POLLIN, .revents = 0}};
    (void)poll(polled, 2, -1);
    absl::MutexLock lock(&mutex);
    if (is_over) return;
    if (const std::optional<VmEnd> end = take(); end.has_value()) Exit(*end);
  }
}

void StartGuard::Shared::Exit(const VmEnd& end) {
  KillChildren();
  if (exit_action) exit_action();
  LogInfo(absl::StrCat("the VM ended before it started: ", Name(end.reason), ": ", end.message));
  AwaitChildren(kKillTimeout);
  FlushLog(kLastLineTimeout);
  _exit(static_cast<int>(end.reason));
}

}  // namespace bulkhead::vmm
