#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_WRITEBACK_FAILURES_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_WRITEBACK_FAILURES_H_

#include <stdint.h>

namespace bulkhead::devices::virtio {

// Failures to write data back, and which of them the driver has been told of. The kernel reports
// one to a single operation, be it a flush or a durable write, but it may be about what others
// wrote: of all that are in flight at the time, and promise that data is on the medium, none may
// succeed. Neither may the next flush, unless a flush was told; nor the next durable write, unless
// anything was told: there are drivers that never flush. Thread-compatible.
class WritebackFailures {
 public:
  // An operation has failed that the kernel may have told of it.
  void Failed() { ++count_; }

  // A flush or durable write begins. It must not succeed if count() is another one at its end.
  uint64_t Told(bool is_flush) const { return is_flush ? told_flushes_ : told_writes_; }
  uint64_t count() const { return count_; }
  // It has failed, and the driver sees that.
  void Tell(bool is_flush) {
    told_writes_ = count_;
    if (is_flush) told_flushes_ = count_;
  }

  // For the saved state: the next flush, or the next durable write, has to fail.
  bool OwesFlush() const { return told_flushes_ != count_; }
  bool OwesWrite() const { return told_writes_ != count_; }

 private:
  uint64_t count_ = 0;
  uint64_t told_flushes_ = 0;  // count_ when the driver was last told
  uint64_t told_writes_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_WRITEBACK_FAILURES_H_
