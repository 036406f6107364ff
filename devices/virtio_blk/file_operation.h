#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_FILE_OPERATION_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_FILE_OPERATION_H_

#include <stdint.h>
#include <sys/uio.h>

#include "absl/types/span.h"

namespace bulkhead::devices::virtio {

// One operation on the disk's file.
struct FileOperation {
  enum class Kind : uint8_t {
    kRead,
    kWrite,
    kSync,       // fdatasync(2)
    kSyncRange,  // sync_file_range(2): writes the range's dirty pages, and waits for them
    kAllocate,   // fallocate(2) with `mode`
    kDiscard,    // BLKDISCARD: block devices only
  };
  Kind kind = Kind::kSync;
  bool durable = false;   // kWrite: data is on the medium when it completes
  bool blocking = false;  // a worker carries it out from the start, which may wait
  int mode = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  absl::Span<const iovec> buffers = {};  // kRead and kWrite; stay valid until its end
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_FILE_OPERATION_H_
