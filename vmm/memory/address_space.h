#ifndef BULKHEAD_VMM_MEMORY_ADDRESS_SPACE_H_
#define BULKHEAD_VMM_MEMORY_ADDRESS_SPACE_H_

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/memory/io_handler.h"

namespace bulkhead::vmm {

// Maps address ranges to handlers. There is one for guest-physical memory and one for ports. Ranges
// never overlap.
//
// Thread-safe. Changes are rare (boot, BAR moves) and take a lock. Each thread accesses the space
// through its own View, without a lock.
//
// Handlers are borrowed and must outlive every View: after Remove() returns, an access that
// began earlier may still be inside its handler. In practice devices outlive the vCPU threads.
class AddressSpace {
 public:
  class View;

  AddressSpace();

  // Errors: InvalidArgument (empty, or it wraps), AlreadyExists (it overlaps another range).
  absl::Status Insert(uint64_t start, uint64_t size_bytes, IoHandler* handler);
  // Removes the range that begins at `start`. The next access of every thread, the caller's
  // included, no longer finds it. Errors: NotFound.
  absl::Status Remove(uint64_t start);

  // Accesses that found no handler: reads of all ones and dropped writes.
  uint64_t unclaimed_accesses() const {
    return unclaimed_accesses_.load(std::memory_order_relaxed);
  }

 private:
  struct Range {
    uint64_t start;
    uint64_t size_bytes;
    IoHandler* handler;
  };
  using Table = std::vector<Range>;  // sorted by start; never changed once published

  void Publish(std::shared_ptr<const Table> table) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::shared_ptr<const Table> table_ ABSL_GUARDED_BY(mutex_);
  // Counts the tables published. Written under `mutex_`, read without.
  std::atomic<uint64_t> table_version_{1};
  std::atomic<uint64_t> unclaimed_accesses_{0};
};

// One thread's view of the ranges. Thread-compatible; the space must outlive it.
class AddressSpace::View {
 public:
  explicit View(AddressSpace& space) : space_(space) {}

  // An access of `size_bytes` (1, 2, 4 or 8). If no single range contains the whole access, a read
  // gives all ones of its width and a write is dropped, as on a bus where no device answers.
  uint64_t Read(Waiter waiter, uint64_t address, uint8_t size_bytes);
  void Write(Waiter waiter, uint64_t address, uint8_t size_bytes, uint64_t value);

 private:
  const Range* Find(uint64_t address, uint8_t size_bytes);

  AddressSpace& space_;
  uint64_t table_version_ = 0;  // of `table_`; the space begins at 1
  std::shared_ptr<const Table> table_;
  size_t last_hit_ = 0;  // an index into `table_`, or its size
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MEMORY_ADDRESS_SPACE_H_
