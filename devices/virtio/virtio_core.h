#ifndef BULKHEAD_DEVICES_VIRTIO_VIRTIO_CORE_H_
#define BULKHEAD_DEVICES_VIRTIO_VIRTIO_CORE_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/event_fd.h"
#include "devices/host/device_model.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::virtio {

// How the transport interrupts the driver.
class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  virtual void InterruptQueue(uint32_t queue) = 0;
  virtual void InterruptConfig() = 0;
};

// The part of a virtio device that neither its type nor its transport changes: status, features,
// queue set-up and reset (virtio 1.2, sections 2 and 3). All arguments come from the driver.
//
// Reset never blocks and never lets DMA outlive it: while chains are in flight, status stays
// what it was, and reads 0 once the last of them has been given back.
class VirtioCore : public VirtioServices {
 public:
  // Both outlive this.
  VirtioCore(VirtioDevice* device, InterruptSink* interrupts);
  ~VirtioCore() override;
  VirtioCore(const VirtioCore&) = delete;
  VirtioCore& operator=(const VirtioCore&) = delete;

  absl::Status Start(DeviceServices& services);

  uint8_t status() const { return status_; }
  void WriteStatus(uint8_t value);

  uint64_t offered_features() const { return offered_features_; }
  uint64_t driver_features() const { return driver_features_; }
  void WriteDriverFeatures(uint64_t features);

  uint32_t queue_count() const { return static_cast<uint32_t>(queues_.size()); }
  const QueueSetup& setup(uint32_t index) const { return queues_[index]->setup; }
  // The set-up to change, or nullptr where the driver may not: outside FEATURES_OK..DRIVER_OK
  // (but for a queue that was reset), and while the queue is enabled.
  QueueSetup* MutableSetup(uint32_t index);
  bool queue_enabled(uint32_t index) const { return queues_[index]->ring.enabled(); }
  bool queue_resetting(uint32_t index) const { return queues_[index]->ring.stopping(); }
  void EnableQueue(uint32_t index);
  void ResetQueue(uint32_t index);  // VIRTIO_F_RING_RESET

  // The driver rang, or may have.
  void Notify(uint32_t index);
  void SetDmaAllowed(bool allowed);

  // VirtioServices.
  DeviceServices& host() override { return *host_; }
  Virtqueue& queue(uint32_t index) override { return queues_[index]->ring; }
  void Publish(uint32_t queue) override;
  void ServeLater(uint32_t queue) override;
  bool dma_allowed() const override { return dma_allowed_; }
  void Fail(absl::string_view reason) override;

 private:
  struct Queue {
    Queue(uint16_t max_size, VirtioCore* core);
    Virtqueue ring;
    QueueSetup setup;
    bool was_reset = false;  // by itself, after DRIVER_OK: may be set up and enabled again
    bool serve_later = false;
  };

  void BeginReset();
  void FinishReset();
  void UpdateServing();
  void NotifyAll();
  void OnServeLater();

  VirtioDevice* const device_;
  InterruptSink* const interrupts_;
  DeviceServices* host_ = nullptr;
  uint64_t offered_features_ = 0;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::unique_ptr<EventFd> serve_later_;

  uint8_t status_ = 0;
  bool resetting_ = false;
  bool dma_allowed_ = false;
  uint64_t driver_features_ = 0;
  uint32_t failures_logged_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VIRTIO_CORE_H_
