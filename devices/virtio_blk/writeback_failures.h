#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_WRITEBACK_FAILURES_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_WRITEBACK_FAILURES_H_

#include <stdint.h>

namespace bulkhead::devices::virtio {

// Failures to write data back, and which of them were reported to the driver. The kernel reports a
// failure to one operation, a flush or a durable write, but the failed data may be another
// operation's. So no flush or durable write that is in flight at that time may succeed. Nor may the
// next flush, unless a flush has failed for it; nor the next durable write, unless a flush or a
// durable write has: there are drivers that never flush. Thread-compatible.
class WritebackFailures {
 public:
  // An operation has failed by which the kernel may have reported one.
  void Failed() { ++count_; }

  // For a flush or durable write that begins: it must not succeed if count() differs at its end.
  uint64_t Reported(bool is_flush) const { return is_flush ? reported_flushes_ : reported_writes_; }
  uint64_t count() const { return count_; }
  // It has failed, which reports all failures so far.
  void Report(bool is_flush) {
    reported_writes_ = count_;
    if (is_flush) reported_flushes_ = count_;
  }

  // For the saved state: the next flush, or the next durable write, has to fail.
  bool OwesFlush() const { return reported_flushes_ != count_; }
  bool OwesWrite() const { return reported_writes_ != count_; }

 private:
  uint64_t count_ = 0;
  uint64_t reported_flushes_ = 0;  // count_ at the last report
  uint64_t reported_writes_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_WRITEBACK_FAILURES_H_
