#ifndef BULKHEAD_VMM_VM_ACCESS_TRACE_H_
#define BULKHEAD_VMM_VM_ACCESS_TRACE_H_

#include <stdint.h>

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "base/memory_mapping.h"
#include "proto/channel/trace_ring.h"

namespace bulkhead::vmm {

// Records the vCPUs' accesses to devices while a trace runs, in one ring a vCPU. No memory is spent
// on the rings before the first trace, and after the end of one. Thread-safe, but each vCPU's ring
// has one writer at a time, and one thread reads.
class AccessTrace {
 public:
  // Errors: as memfd_create(2) and mmap(2).
  static absl::StatusOr<std::unique_ptr<AccessTrace>> Create(uint32_t vcpus);
  // One that is never on.
  static const AccessTrace& Never();

  // All that an access costs while no trace runs. relaxed: late is harmless.
  bool on() const { return __builtin_expect(on_.load(std::memory_order_relaxed) != 0, 0); }
  // Does nothing for a waiter that is no vCPU. Does not lock, wait or allocate.
  void Write(uint32_t vcpu, const channel::TraceRecord& record) const {
    if (vcpu < vcpus_) channel::TraceRecorder(on_, ring(vcpu)).Write(record);
  }

  uint32_t vcpus() const { return vcpus_; }
  channel::TraceRing& ring(uint32_t vcpu) const {
    return reinterpret_cast<channel::TraceRing*>(memory_.data())[vcpu];
  }
  void SetOn(bool on) { on_.store(on ? 1 : 0, std::memory_order_relaxed); }
  // Gives the memory back. Call while nobody reads.
  void Drop();

 private:
  AccessTrace(MemoryMapping memory, uint32_t vcpus) : memory_(std::move(memory)), vcpus_(vcpus) {}

  const MemoryMapping memory_;
  const uint32_t vcpus_;
  // Read at each access; the vCPUs share the line as long as no trace begins or ends.
  alignas(64) std::atomic<uint32_t> on_{0};
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_ACCESS_TRACE_H_
