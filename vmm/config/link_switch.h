#ifndef BULKHEAD_VMM_CONFIG_LINK_SWITCH_H_
#define BULKHEAD_VMM_CONFIG_LINK_SWITCH_H_

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// Whether the operator wants a network device's link to be up, which its processes hear through a
// pipe each (proto/net_link.h). Thread-safe.
class LinkSwitch {
 public:
  bool up() const;
  // A device without a process hears of it from its next one. Errors: FailedPrecondition (its
  // process does not read).
  absl::Status Set(bool up);

  // A new pipe for the device's next process, which says the present state. Stays this object's.
  // -1: as pipe(2).
  int ForNextProcess();

 private:
  bool Tell() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  bool up_ ABSL_GUARDED_BY(mutex_) = true;
  UniqueFd reader_ ABSL_GUARDED_BY(mutex_);
  UniqueFd writer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_LINK_SWITCH_H_
