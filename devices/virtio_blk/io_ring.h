#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_IO_RING_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_IO_RING_H_

#include <liburing.h>
#include <stdint.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "devices/virtio_blk/block_request.h"

namespace bulkhead::devices::virtio {

// Asynchronous operations on one file, through io_uring. Thread-compatible.
class IoRing {
 public:
  struct Result {
    uint64_t id = 0;
    int32_t result = 0;  // bytes moved, or -errno
  };

  // For up to `max_operations` at a time on `file`, which must outlive the ring. Errors:
  // PermissionDenied or Unimplemented (this machine does not allow or have io_uring), as
  // io_uring_setup(2).
  static absl::StatusOr<std::unique_ptr<IoRing>> Create(int file, uint32_t max_operations);
  // In-flight operations may still touch their buffers: Drain() before.
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // Adds an operation to the next batch. No more than `max_operations` may be unfinished.
  void Prepare(const FileOperation& operation, uint64_t id);
  // Gives the batch to the kernel: one system call. False: some of it waits, try again later.
  bool Submit();
  // Takes the result of a finished operation, in any order. False: none.
  bool Reap(Result& result);

  // Waits until nothing is in flight, and drops the results. False: not in this time.
  bool Drain(absl::Duration timeout);

  // Prepared and not reaped.
  uint32_t in_flight() const { return in_flight_; }

  // Readable while there are results to reap.
  int fd() const { return ring_.ring_fd; }

 private:
  IoRing() = default;

  io_uring ring_;
  uint32_t in_flight_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_IO_RING_H_
