#include "base/log_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_thread.h"
#include "base/errno_status.h"
#include "base/steady_cond_var.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"

namespace bulkhead {
namespace {

// Between two tries at a non-blocking descriptor that poll(2) calls writable and write(2) does not:
// a terminal with room for one byte has none for a line's end, which it writes as two.
constexpr int kRetryIntervalMs = 10;

// Writes all of `text`. False: it is lost from some byte on.
bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n > 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      pollfd writable = {.fd = fd, .events = POLLOUT, .revents = 0};
      (void)poll(&writable, 1, -1);
      (void)poll(nullptr, 0, kRetryIntervalMs);
    } else if (n == 0 || errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

// What the thread and the owner share: the thread may be held up for longer than the owner lives.
struct LogQueue::State {
  // What is written at once.
  struct Entry {
    std::string text;
    uint64_t lines = 0;  // that are lost with it, those that it says were dropped included
  };

  explicit State(UniqueFd out) : fd(std::move(out)) {}

  bool idle() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return entries.empty() && !writing; }

  const UniqueFd fd;
  absl::Mutex mutex;
  SteadyCondVar changed;
  std::deque<Entry> entries ABSL_GUARDED_BY(mutex);
  size_t bytes ABSL_GUARDED_BY(mutex) = 0;      // of the entries, with the one being written
  uint64_t dropped ABSL_GUARDED_BY(mutex) = 0;  // lines that nothing in the queue speaks of
  bool writing ABSL_GUARDED_BY(mutex) = false;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  bool confined ABSL_GUARDED_BY(mutex) = false;
};

absl::StatusOr<std::unique_ptr<LogQueue>> LogQueue::Create(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!copy.ok()) return ErrnoToStatus(errno, "fcntl of the log's descriptor");
  auto state = std::make_shared<State>(std::move(copy));
  // The thread takes no signal: SIGTERM is for others, and a background job whose terminal has
  // TOSTOP set is not to be stopped by SIGTTOU because it logs.
  if (const int error = StartDetachedThread("log", [state] { Run(*state); }); error != 0) {
    return ErrnoToStatus(error, "starting the log's thread");
  }
  {
    // Later the vmm's filter, which is for all threads, would kill the vmm for it.
    absl::MutexLock lock(&state->mutex);
    while (!state->confined) state->changed.Wait(&state->mutex);  // its first instructions
  }
  return std::unique_ptr<LogQueue>(new LogQueue(std::move(state)));
}

LogQueue::LogQueue(std::shared_ptr<State> state) : state_(std::move(state)) {}

LogQueue::~LogQueue() {
  absl::MutexLock lock(&state_->mutex);
  state_->stopping = true;
  state_->changed.SignalAll();
}

void LogQueue::Append(absl::string_view header, absl::string_view lines) {
  State& state = *state_;
  const uint64_t count = std::count(lines.begin(), lines.end(), '\n');
  absl::MutexLock lock(&state.mutex);
  State::Entry entry = {.text = "", .lines = state.dropped + count};
  if (state.dropped != 0) {
    entry.text = absl::StrCat(header, "(", state.dropped, " lines were dropped here)\n");
  }
  absl::StrAppend(&entry.text, lines);
  if (state.bytes + entry.text.size() > kMaxQueuedBytes) {
    state.dropped += count;
    return;
  }
  state.dropped = 0;
  state.bytes += entry.text.size();
  state.entries.push_back(std::move(entry));
  state.changed.SignalAll();
}

bool LogQueue::Flush(absl::Duration limit) {
  State& state = *state_;
  const absl::Time deadline = SteadyNow() + limit;
  absl::MutexLock lock(&state.mutex);
  while (!state.idle()) {
    if (!state.changed.WaitUntil(&state.mutex, deadline)) return state.idle();
  }
  return true;
}

void LogQueue::Run(State& state) {
  // The thread is older than the vmm's lockdown, and writes to an open file only: no capabilities.
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const __user_cap_data_struct none[2] = {};
  syscall(SYS_capset, &header, none);
  state.mutex.Lock();
  state.confined = true;
  state.changed.SignalAll();
  while (true) {
    while (state.entries.empty() && !state.stopping) state.changed.Wait(&state.mutex);
    if (state.stopping) break;
    const State::Entry entry = std::move(state.entries.front());
    state.entries.pop_front();
    state.writing = true;
    state.mutex.Unlock();
    const bool written = WriteAll(state.fd.get(), entry.text);
    state.mutex.Lock();
    state.writing = false;
    state.bytes -= entry.text.size();
    if (!written) state.dropped += entry.lines;
    if (state.entries.empty()) state.changed.SignalAll();
  }
  state.mutex.Unlock();
}

}  // namespace bulkhead
