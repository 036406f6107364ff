#ifndef BULKHEAD_INTEGRATION_STORM_KILL_TIMER_H_
#define BULKHEAD_INTEGRATION_STORM_KILL_TIMER_H_

#include <stdint.h>
#include <sys/types.h>

#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/memory_mapping.h"

namespace bulkhead::integration {

// Kills processes of a device, and takes the time until the guest has the next request back, which
// it sees where the guest sees it: in the used index of a virtqueue. Thread-compatible.
class KillTimer {
 public:
  // The used index lies at `address` of the guest's RAM. Errors: there is no such RAM.
  static absl::StatusOr<KillTimer> Create(pid_t vmm, uint64_t address);

  // From just before the kill. Errors: NotFound (there is no such process), DeadlineExceeded (it
  // does not die, or nothing is completed, for half a minute).
  absl::StatusOr<absl::Duration> Kill(pid_t pid) const;

 private:
  KillTimer(MemoryMapping page, uint64_t offset) : page_(std::move(page)), offset_(offset) {}

  uint16_t used_index() const;

  MemoryMapping page_;
  uint64_t offset_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_STORM_KILL_TIMER_H_
