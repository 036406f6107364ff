#ifndef BULKHEAD_VMM_CONFIG_PROCESS_SETTING_H_
#define BULKHEAD_VMM_CONFIG_PROCESS_SETTING_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// What the operator sets while a device runs, which its processes hear through a pipe each: the
// present value first, then each change. All values have the same few bytes. Thread-safe.
class ProcessSetting {
 public:
  explicit ProcessSetting(absl::string_view value) : value_(value) {}

  std::string value() const;
  // A device without a process hears of it from its next one. Errors: FailedPrecondition (its
  // process does not read).
  absl::Status Set(absl::string_view value);

  // A new pipe for the device's next process, which says the present value. Stays this object's.
  // -1: as pipe(2).
  int ForNextProcess();

 private:
  bool Tell() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::string value_ ABSL_GUARDED_BY(mutex_);
  UniqueFd reader_ ABSL_GUARDED_BY(mutex_);
  UniqueFd writer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_PROCESS_SETTING_H_
