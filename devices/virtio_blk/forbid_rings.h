#ifndef BULKHEAD_DEVICES_VIRTIO_BLK_FORBID_RINGS_H_
#define BULKHEAD_DEVICES_VIRTIO_BLK_FORBID_RINGS_H_

#include "absl/status/status.h"

namespace bulkhead::devices::virtio {

// From now on io_uring_setup(2) and io_uring_register(2) kill this process, also without the
// sandbox's layer "seccomp". For a process that has its ring: one that was taken over could set up
// another without the restrictions of io_ring.h. Does nothing if the process may not install a
// filter, which each process with a sandbox may. Errors: as seccomp(2).
absl::Status ForbidNewRings();

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_BLK_FORBID_RINGS_H_
