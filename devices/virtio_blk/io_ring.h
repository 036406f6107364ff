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
//
// None of them outlives the process. A buffered read or write, an fsync or a fallocate is carried
// out by this thread or by one of io_uring's workers, which are threads of this process (since
// Linux 5.12): the process's pidfd tells of its death when the last of them has ended. A successor
// starts after that, so what it writes again is never overwritten by its predecessor's late write,
// and no late read reaches guest memory. Direct I/O is another matter: the hardware may finish it
// after the process is gone. The file must not be open for it (see AdoptDisk()).
//
// A network file system that goes past the page cache is as direct I/O, and cannot be told here.
//
// To do an operation again is harmless: the driver has not been told of its end, so it cannot have
// built anything upon it, and there is no order among operations in flight. But for one: the kernel
// tells of a failed writeback once. A process that dies between hearing of it and telling the
// driver takes the news along, and its successor's flush succeeds.
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
