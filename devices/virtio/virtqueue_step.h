#ifndef BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_STEP_H_
#define BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_STEP_H_

// VIRTQUEUE_STEP("name") stands between two stores to memory that outlives the process. It is the
// crash point "queue_name", where tests let the process die. recovery_model_test compiles the queue
// with BULKHEAD_VIRTQUEUE_STEPS: then each step calls the test's OnVirtqueueStep().

#ifdef BULKHEAD_VIRTQUEUE_STEPS
namespace bulkhead::devices::virtio {
void OnVirtqueueStep(const char* name);
}
#define VIRTQUEUE_STEP(name) ::bulkhead::devices::virtio::OnVirtqueueStep(name)
#else
#include "base/crash_point.h"
#define VIRTQUEUE_STEP(name) CRASH_POINT("queue_" name)
#endif

#endif  // BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_STEP_H_
