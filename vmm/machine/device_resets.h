#ifndef BULKHEAD_VMM_MACHINE_DEVICE_RESETS_H_
#define BULKHEAD_VMM_MACHINE_DEVICE_RESETS_H_

#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_fd.h"

namespace bulkhead::vmm {

// The resets of all devices for a reboot, which are under way at the same time. Shared with those
// who carry them out, because the VM may end before they have. Thread-safe.
class DeviceResets {
 public:
  // A reboot that waits for its devices for that long says so, or is given up. A supervisor is done
  // with a reset in less, whatever its device does.
  static constexpr absl::Duration kSlow = absl::Seconds(2);
  static constexpr absl::Duration kLimit = absl::Seconds(30);

  DeviceResets(std::set<std::string> devices, EventFd all_done)
      : left_(std::move(devices)), all_done_(std::move(all_done)) {
    if (left_.empty()) all_done_.Signal();
  }

  void Done(const std::string& device, const absl::Status& status);

  // Whether to wait on, `passed` (of RunningTime) after they began. False: all are done, or those
  // that are left have had their time.
  bool MustWait(absl::Duration passed);

  int fd() const { return all_done_.fd(); }  // readable once all are done
  // OK: all are done. Errors: the first that failed; DeadlineExceeded (given up); Cancelled (some
  // are under way).
  absl::Status status() const;

 private:
  std::string Left() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::set<std::string> left_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool said_ ABSL_GUARDED_BY(mutex_) = false;
  const EventFd all_done_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_DEVICE_RESETS_H_
