#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_IO_RING_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_IO_RING_H_

#include <liburing.h>
#include <stdint.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "devices/virtio_blk/disk_engine.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/file_operation.h"

namespace bulkhead::devices::virtio {

// The engine over io_uring: this thread does what the page cache has, and the kernel's workers,
// which are threads of this process since Linux 5.12, do the rest. Thread-compatible.
//
// The kernel tries a read or write inline first, and takes some file systems (FUSE; NFS and 9p
// before Linux 6.x) for ready that are not: there io_uring_enter(2) itself waits for the server. So
// where the file knows no RWF_NOWAIT each operation goes to a worker from the start.
//
// What a ring executes passes no seccomp filter. So the kernel lets the ring do no other operations
// than those below, and with a registered file on no other file. See also forbid_rings.h.
class IoRing : public DiskEngine {
 public:
  // Errors: PermissionDenied or Unimplemented (this machine does not allow or have io_uring), as
  // io_uring_setup(2).
  static absl::StatusOr<std::unique_ptr<IoRing>> Create(const DiskFile& disk,
                                                        uint32_t max_operations);
  // In-flight operations may still touch their buffers: Drain() before.
  ~IoRing() override;
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // All but kDiscard.
  void Prepare(const FileOperation& operation, uint64_t id) override;
  bool Submit() override;
  bool Reap(Result& result) override;
  // Once a quarter of what is in flight is done: the driver is told of several at once. Before the
  // device sleeps fd() tells of the first.
  bool has_results() const override;
  uint32_t in_flight() const override { return in_flight_; }
  int fd() const override { return ring_.ring_fd; }

 private:
  explicit IoRing(const DiskFile& disk)
      : knows_nowait_(disk.knows_nowait), file_(disk.fd.get()), is_registered_(!disk.is_direct()) {}

  const bool knows_nowait_;
  const int file_;
  // Registered, it saves taking a reference for each operation; but the kernel lets go of it only
  // some time after the ring has gone, 20 to 60 ms. With direct I/O the vmm waits for that before a
  // successor may attach.
  const bool is_registered_;
  mutable io_uring ring_;  // has_results() enters the kernel
  uint32_t in_flight_ = 0;
};

// Restricts `ring`, which was set up with IORING_SETUP_R_DISABLED, to the operations of an IoRing,
// and enables it. Nothing can be registered with it afterwards. `is_registered`: on file 0 only.
// Errors: as io_uring_register(2).
absl::Status RestrictAndEnable(io_uring& ring, bool is_registered);

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_IO_RING_H_
