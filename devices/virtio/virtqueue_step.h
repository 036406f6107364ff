#ifndef BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_STEP_H_
#define BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_STEP_H_

// VIRTQUEUE_STEP("name") stands between two stores to memory that outlives the process: it may die
// there. recovery_model_test has the queue compiled with steps that call it, and lets it.

#ifdef BULKHEAD_VIRTQUEUE_STEPS
namespace bulkhead::devices::virtio {
void OnVirtqueueStep(const char* name);
}
#define VIRTQUEUE_STEP(name) ::bulkhead::devices::virtio::OnVirtqueueStep(name)
#else
#define VIRTQUEUE_STEP(name) static_cast<void>(0)
#endif

#endif  // BULKHEAD_DEVICES_VIRTIO_VIRTQUEUE_STEP_H_
