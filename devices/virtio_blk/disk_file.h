#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_DISK_FILE_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_DISK_FILE_H_

#include <stdint.h>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace bulkhead::devices::virtio {

// What a disk is kept in: a regular file or a block device, as found at start.
struct DiskFile {
  UniqueFd fd;
  uint64_t sectors = 0;  // whole ones; what the file has beyond is not shown
  bool read_only = false;
  bool is_block_device = false;
  // On tmpfs: reading and writing it is copying memory, and waits for no device.
  bool is_in_memory = false;
  // It can tell (RWF_NOWAIT) whether a read would have to wait. FUSE cannot, for one.
  bool knows_nowait = false;
  // The same of writes to the page cache: XFS. Elsewhere io_uring gives each to a worker.
  bool knows_nowait_writes = false;
  // Direct writes to it do not wait for each other, and outlive no thread that makes them: a file
  // of ext4 or XFS, without holes at the start. A write into a hole has the file for itself on ext4
  // until the medium answers, and what a killed thread has sent to a network's server may still
  // arrive.
  bool knows_parallel_writes = false;
  uint32_t physical_block_size = 0;  // bytes, a power of two from 512 to 64 KiB
  // With direct I/O (O_DIRECT), what the kernel wants: of positions and lengths in the file, a
  // power of two from 512 to 64 KiB, and of buffers' addresses. 0: without.
  uint32_t direct_alignment = 0;
  uint32_t memory_alignment = 0;
  bool is_direct() const { return direct_alignment != 0; }
};

// Takes over an open descriptor. Read-only if it was opened so, if the block device is, or if
// `read_only`. With direct I/O the hardware may finish what a process started after that is gone:
// the vmm has to wait for it before a successor attaches (vmm/config/host_file.h). Errors:
// InvalidArgument (neither file nor block device, not readable, smaller than a sector, O_NONBLOCK
// is set, its file system does not know direct I/O), and as fstat(2).
absl::StatusOr<DiskFile> AdoptDisk(UniqueFd fd, bool read_only);

// The same on a file system that may not answer for as long as its server is away. Errors: also
// ResourceExhausted (not within `timeout`; the descriptor is closed once that is possible).
absl::StatusOr<DiskFile> AdoptDiskInTime(UniqueFd fd, bool read_only, absl::Duration timeout);

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_DISK_FILE_H_
