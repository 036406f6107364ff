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

// The concurrent resets of all devices for a reboot. Shared with the supervisors that do them,
// because the VM may end before they finish. Thread-safe.
class DeviceResets {
 public:
  // After kSlow the reboot logs that it waits for devices; after kLimit it fails. A supervisor
  // finishes a reset in less than kLimit, whatever its device does.
  static constexpr absl::Duration kSlow = absl::Seconds(2);
  static constexpr absl::Duration kLimit = absl::Seconds(30);

  DeviceResets(std::set<std::string> devices, EventFd all_done)
      : remaining_(std::move(devices)), all_done_(std::move(all_done)) {
    if (remaining_.empty()) all_done_.Signal();
  }

  void Done(const std::string& device, const absl::Status& status);

  // True if the reboot must wait on, `passed` (of RunningTime) after the start of the resets.
  // False: all are done, or kLimit has passed.
  bool MustWait(absl::Duration passed);

  int fd() const { return all_done_.fd(); }  // readable once all are done
  // OK: all are done. Errors: the first failure of a reset; DeadlineExceeded (kLimit has passed);
  // Cancelled (some are still running).
  absl::Status status() const;

 private:
  std::string Remaining() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::set<std::string> remaining_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool warned_ ABSL_GUARDED_BY(mutex_) = false;
  const EventFd all_done_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_DEVICE_RESETS_H_
