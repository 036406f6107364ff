#ifndef BULKHEAD_INTEGRATION_STORM_KILL_TIMER_H_
#define BULKHEAD_INTEGRATION_STORM_KILL_TIMER_H_

#include <stdint.h>
#include <sys/types.h>

#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/memory_mapping.h"

namespace bulkhead::integration {

// Kills processes of a device, and measures the time until the guest gets its next completed
// request: it watches the used index of the virtqueue in guest memory. Thread-compatible.
class KillTimer {
 public:
  // `address`: of the used index, in the guest's RAM. Errors: that is not RAM.
  static absl::StatusOr<KillTimer> Create(pid_t vmm, uint64_t address);

  // Returns the time from just before the kill. Errors: NotFound (there is no such process),
  // DeadlineExceeded (the process does not die, or no request is completed, for half a minute).
  absl::StatusOr<absl::Duration> Kill(pid_t pid) const;

 private:
  KillTimer(MemoryMapping page, uint64_t offset) : page_(std::move(page)), offset_(offset) {}

  uint16_t used_index() const;

  MemoryMapping page_;
  uint64_t offset_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_KILL_TIMER_H_
