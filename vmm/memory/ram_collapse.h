#ifndef BULKHEAD_VMM_MEMORY_RAM_COLLAPSE_H_
#define BULKHEAD_VMM_MEMORY_RAM_COLLAPSE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {

// Gathers guest RAM into huge pages, in the background: where three quarters of 2 MiB are in use,
// the kernel copies them into one page (MADV_COLLAPSE, Linux 6.1). Hosts give shared memory no huge
// pages of themselves unless told to (shmem_enabled), but do this where it is asked for, unless
// that is "deny". The thread works at most a twentieth of the time, and not at all while RAM's use
// stays as it is. Thread-safe.
//
// Of RAM from which a balloon frees pages, only 2 MiB that are in use as a whole are gathered: else
// the kernel would fill the holes again.
class RamCollapse {
 public:
  struct Options {
    absl::Duration interval = absl::Seconds(1);  // to the first look at RAM; more where it is idle
    bool pages_are_freed = false;                // by a balloon
    // Makes [start, start + size) huge pages. Returns 0 or errno.
    int (*collapse)(uint8_t* start, size_t size_bytes) = &CollapseByKernel;
  };

  // Starts a thread. Errors: ResourceExhausted (no thread), as fcntl(2).
  static absl::StatusOr<std::unique_ptr<RamCollapse>> Start(const GuestRam& ram,
                                                            const Options& options);
  // Does not wait: a call that is on may take long, and does no harm to memory that is gone.
  ~RamCollapse();

  // All of RAM has been cleared: what was found out about it does not hold any more.
  void Forget();

  uint64_t huge_pages() const;  // made so far

  static int CollapseByKernel(uint8_t* start, size_t size_bytes);

 private:
  class Worker;
  explicit RamCollapse(std::shared_ptr<Worker> worker) : worker_(std::move(worker)) {}

  const std::shared_ptr<Worker> worker_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MEMORY_RAM_COLLAPSE_H_
