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

// The state of the VM, its reason, and its times. Each change appends an event. One thread changes
// it; any thread may read it.
class VmState {
 public:
  // Begins as STARTING. `events` must outlive this.
  explicit VmState(EventLog& events);

  // Call when the guest begins to boot.
  void NoteBoot();
  void SetRunning();
  void SetPaused(absl::string_view reason);
  // Call when the guest asked for a reset. Counts the reboots.
  void SetRebooting(absl::string_view reason);
  // Call when the reboot has to wait.
  void SetRebootWaits(absl::string_view why) { Set(v1::VmStatus::REBOOTING, why); }
  // Final.
  void SetEnding(absl::string_view reason);

  // Fills in state, reasons and times.
  void Describe(v1::VmStatus& status) const;

 private:
  void Set(v1::VmStatus::State state, absl::string_view reason);

  EventLog& events_;
  const absl::Time start_time_;  // by the wall clock
  // By the steady clock: setting the wall clock does not change the uptime.
  const absl::Time start_;
  mutable absl::Mutex mutex_;
  v1::VmStatus::State state_ ABSL_GUARDED_BY(mutex_) = v1::VmStatus::STARTING;
  std::string reason_ ABSL_GUARDED_BY(mutex_);                      // of `state_`
  absl::Time boot_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // no boot yet
  uint32_t reboots_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_VM_STATE_H_
