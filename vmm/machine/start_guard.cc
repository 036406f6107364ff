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

// For killed device processes to be dead, and for the last line to be written. SIGTERM during the
// start is to end the vmm within 100 ms.
constexpr absl::Duration kDeathTimeout = absl::Milliseconds(40);
constexpr absl::Duration kLastLineTimeout = absl::Milliseconds(30);

// Kills the children of all threads. That each dies with its thread too may take a moment longer.
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

// Others may wait for them too, and then there are none left for this.
void AwaitChildren(absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  while (SteadyNow() < deadline) {
    const pid_t ended = waitpid(-1, nullptr, WNOHANG);
    if (ended < 0 && errno == ECHILD) return;
    if (ended == 0) poll(nullptr, 0, 1);
  }
}

}  // namespace

// The thread's, too: it is never joined, so that nothing waits for it.
struct StartGuard::Shared {
  Shared(int fd_in, std::function<std::optional<VmEnd>()> take_in, EventFd over_in)
      : fd(fd_in), take(std::move(take_in)), over(std::move(over_in)) {}

  void Run();

  const int fd;
  const std::function<std::optional<VmEnd>()> take;
  const EventFd over;
  absl::Mutex mutex;
  bool is_over ABSL_GUARDED_BY(mutex) = false;
  std::function<void()> last_act ABSL_GUARDED_BY(mutex);

  [[noreturn]] void Leave(const VmEnd& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
};

absl::StatusOr<std::unique_ptr<StartGuard>> StartGuard::Begin(
    int fd, std::function<std::optional<VmEnd>()> take) {
  ASSIGN_OR_RETURN(EventFd over, EventFd::Create());
  auto shared = std::make_shared<Shared>(fd, std::move(take), std::move(over));
  if (const int error = StartDetachedThread("start-guard", [shared] { shared->Run(); });
      error != 0) {
    return ErrnoToStatus(error, "starting a thread");
  }
  return std::unique_ptr<StartGuard>(new StartGuard(std::move(shared)));
}

StartGuard::StartGuard(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

StartGuard::~StartGuard() {
  {
    absl::MutexLock lock(&shared_->mutex);  // held for good by a thread that leaves
    shared_->is_over = true;
  }
  shared_->over.Signal();
}

void StartGuard::SetLastAct(std::function<void()> act) {
  absl::MutexLock lock(&shared_->mutex);
  shared_->last_act = std::move(act);
}

void StartGuard::Shared::Run() {
  while (true) {
    pollfd polled[] = {{.fd = fd, .events = POLLIN, .revents = 0},
                       {.fd = over.fd(), .events = POLLIN, .revents = 0}};
    (void)poll(polled, 2, -1);
    absl::MutexLock lock(&mutex);
    if (is_over) return;
    if (const std::optional<VmEnd> end = take(); end.has_value()) Leave(*end);
  }
}

void StartGuard::Shared::Leave(const VmEnd& end) {
  KillChildren();
  if (last_act) last_act();
  LogInfo(absl::StrCat("the VM ended before it ran: ", Name(end.reason), ": ", end.message));
  AwaitChildren(kDeathTimeout);
  FlushLog(kLastLineTimeout);
  _exit(static_cast<int>(end.reason));
}

}  // namespace bulkhead::vmm
