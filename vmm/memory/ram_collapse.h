#ifndef BULKHEAD_VMM_MEMORY_RAM_COLLAPSE_H_
#define BULKHEAD_VMM_MEMORY_RAM_COLLAPSE_H_

#include <stdint.h>

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {

// Gathers guest RAM into huge pages, in the background: where three quarters of 2 MiB are in use,
// the kernel copies them into one page (MADV_COLLAPSE, Linux 6.1). Hosts give shared memory no huge
// pages of themselves unless told to (shmem_enabled), but do this wherever it is asked for.
// It costs at most a twentieth of a CPU while RAM comes into use, and nothing after that.
// Thread-safe.
class RamCollapse {
 public:
  static constexpr absl::Duration kInterval = absl::Seconds(1);

  // Starts a thread. `ram` must outlive this. `interval`: to the first look at RAM, and between
  // two. Errors: ResourceExhausted (no thread).
  static absl::StatusOr<std::unique_ptr<RamCollapse>> Start(const GuestRam& ram,
                                                            absl::Duration interval = kInterval);
  // Waits for the end of a call, some milliseconds.
  ~RamCollapse();

  // Touches no RAM from Suspend(), which waits as long, until Resume(). RAM is taken for new then.
  void Suspend();
  void Resume();

  uint64_t huge_pages() const;  // made so far

 private:
  class Worker;
  explicit RamCollapse(std::shared_ptr<Worker> worker) : worker_(std::move(worker)) {}

  const std::shared_ptr<Worker> worker_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MEMORY_RAM_COLLAPSE_H_
