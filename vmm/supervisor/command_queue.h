#ifndef BULKHEAD_VMM_SUPERVISOR_COMMAND_QUEUE_H_
#define BULKHEAD_VMM_SUPERVISOR_COMMAND_QUEUE_H_

#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/supervision_table.h"

namespace bulkhead::vmm {

struct SupervisorCommand {
  SupervisionEvent event;
  std::string by = "a client";
  std::string binary = "";  // of a restart, a path; empty: the one that the device has
  // Of a restart: the file gets this size first (HostFile::Resize()), and without a process that
  // serves that is all.
  std::optional<uint64_t> resize_bytes = std::nullopt;
  // Of a restart: flags of the binary that change, without their values and with: {"--iops",
  // "--iops=100"}. Without a process that serves that is all.
  std::map<std::string, std::string> flags = {};
  std::function<void(absl::Status)> done = [](absl::Status) {};
};

// What other threads want of a supervisor's thread: commands, and its end. Thread-safe.
class CommandQueue {
 public:
  explicit CommandQueue(std::shared_ptr<Attention> attention) : attention_(std::move(attention)) {}

  // Any thread. Demands the supervisor's attention. Answers Unavailable once TakeOrEnd() has found
  // no command.
  void Submit(SupervisorCommand command);
  // `done` is called once the device's metrics are fresh, or cannot be; as with a command, on the
  // supervisor's thread or the caller's.
  void SubmitRefresh(std::function<void()> done);
  void Shutdown();
  void AwaitEnd();

  // The supervisor's thread.
  bool ending() const;
  std::optional<SupervisorCommand> Take();
  // As Take(). Where there is none, no further command is accepted.
  std::optional<SupervisorCommand> TakeOrEnd();
  // Somebody waits for fresh metrics; all that do.
  bool wants_refresh() const;
  std::vector<std::function<void()>> TakeRefreshes();

 private:
  std::optional<SupervisorCommand> TakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<Attention> attention_;
  mutable absl::Mutex mutex_;
  std::deque<SupervisorCommand> commands_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> refreshes_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

// For all that a supervisor cannot do any more.
inline absl::Status VmEndsError() { return absl::UnavailableError("the VM ends"); }

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_COMMAND_QUEUE_H_
