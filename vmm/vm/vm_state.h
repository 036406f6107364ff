#ifndef BULKHEAD_VMM_VM_VM_STATE_H_
#define BULKHEAD_VMM_VM_VM_STATE_H_

#include <stdint.h>

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {

// What state the VM is in, why, and since when, for those who ask. Each change is an event.
// Changed by one thread; thread-safe for the others.
class VmState {
 public:
  // STARTING, from now on. `events` must outlive this.
  explicit VmState(EventLog& events);

  // The guest begins to boot now.
  void NoteBoot();
  void SetRunning();
  void SetPaused(absl::string_view reason);
  // The guest asked for a reset. Counts the reboots.
  void SetRebooting(absl::string_view reason);
  // ... and that takes longer.
  void SetRebootWaits(absl::string_view why) { Set(v1::VmStatus::REBOOTING, why); }
  // For good.
  void SetEnding(absl::string_view reason);

  // Fills in state, reasons and times.
  void Describe(v1::VmStatus& status) const;

 private:
  void Set(v1::VmStatus::State state, absl::string_view reason);

  EventLog& events_;
  const absl::Time start_time_;  // by the clock on the wall
  // By the steady clock: setting the other one changes no uptime.
  const absl::Time start_;
  mutable absl::Mutex mutex_;
  v1::VmStatus::State state_ ABSL_GUARDED_BY(mutex_) = v1::VmStatus::STARTING;
  std::string reason_ ABSL_GUARDED_BY(mutex_);                      // of `state_`
  absl::Time boot_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // there was none
  uint32_t reboots_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_VM_STATE_H_
