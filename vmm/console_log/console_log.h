#ifndef BULKHEAD_VMM_CONSOLE_LOG_CONSOLE_LOG_H_
#define BULKHEAD_VMM_CONSOLE_LOG_CONSOLE_LOG_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "vmm/config/console_log_file.h"
#include "vmm/console/console_hub.h"
#include "vmm/side_process/side_processes.h"

namespace bulkhead::vmm {

// Writes what a guest prints into a file, beside all that else listens to its console. A side
// process does the writing (console_log_process.h): a vmm that is locked down makes and renames no
// files, and a disk that hangs delays neither the vmm nor the guest. What that process does not
// take in time is missing from the file, which says so. Thread-safe.
class ConsoleLog {
 public:
  // Adds the side process; call it before they start. Errors: as socketpair(2).
  static absl::StatusOr<std::unique_ptr<ConsoleLog>> Create(const ConsoleLogFile& file,
                                                            bool confined,
                                                            std::vector<SideProcess>& processes);
  ~ConsoleLog() = default;

  // Logs what the hub has and will have. Once. The hub outlives this, or is used no more.
  void Attach(ConsoleHub& hub);
  // Waits until all that has come is written, for `limit` at most; logs no more.
  void Finish(absl::Duration limit);

 private:
  explicit ConsoleLog(UniqueFd socket) : socket_(std::move(socket)) {}

  void Move();
  void Send(absl::string_view bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const UniqueFd socket_;
  absl::Mutex mutex_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t lost_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes, that nobody was told of yet
  // Destroyed first: its callbacks use the rest.
  std::unique_ptr<ConsoleHub::Client> client_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_LOG_CONSOLE_LOG_H_
