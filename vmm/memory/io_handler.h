#ifndef BULKHEAD_VMM_MEMORY_IO_HANDLER_H_
#define BULKHEAD_VMM_MEMORY_IO_HANDLER_H_

#include <stdint.h>

namespace bulkhead::vmm {

// The caller of an access, as in the channel: the index of a vCPU, or the number of vCPUs for the
// vmm itself. It has one access at a time.
using Waiter = uint32_t;

// Serves accesses to a range of guest-physical or port addresses. Thread-safe: any vCPU thread may
// call. May block until the device's access timeout, never longer.
class IoHandler {
 public:
  virtual ~IoHandler() = default;

  // A read of `size_bytes` (1, 2, 4 or 8; any alignment) at `offset` from the start of the
  // handler's range; the access lies within the range. All ones if the device is absent or dead.
  virtual uint64_t Read(Waiter waiter, uint64_t offset, uint8_t size_bytes) = 0;
  virtual void Write(Waiter waiter, uint64_t offset, uint8_t size_bytes, uint64_t value) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MEMORY_IO_HANDLER_H_
