#ifndef BULKHEAD_DEVICES_VIRTIO_VIRTIO_CORE_H_
#define BULKHEAD_DEVICES_VIRTIO_VIRTIO_CORE_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "devices/host/device_model.h"
#include "devices/virtio/request_timer.h"
#include "devices/virtio/saved_state.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio/virtqueue.h"
#include "proto/channel/channel_metrics.h"
#include "proto/channel/trace_ring.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {

// How the transport interrupts the driver.
class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  virtual void InterruptQueue(uint32_t queue) = 0;
  virtual void InterruptConfig() = 0;
  // The device's configuration has changed: counts it, and calls InterruptConfig().
  virtual void OnConfigChanged() = 0;
  // As VirtioServices::InterruptDescriptor().
  virtual int InterruptDescriptor(uint32_t queue) const = 0;
};

// The part of a virtio device that depends neither on its type nor on its transport: status,
// features, queue set-up, serving and reset (virtio 1.2, sections 2 and 3). All arguments come from
// the driver.
//
// Reset never blocks and never lets DMA outlive it: while chains are in flight, status stays
// what it was, and reads 0 once the last of them has been given back.
//
// Each process but the first restores what the one before has saved. Before the enabling of a queue
// is saved, nothing is popped from it: else a successor, which enables it again, would start from
// index 0 of a queue that has been served.
class VirtioCore : public VirtioServices {
 public:
  // Both outlive this.
  VirtioCore(VirtioDevice* device, InterruptSink* interrupts);
  ~VirtioCore() override;
  VirtioCore(const VirtioCore&) = delete;
  VirtioCore& operator=(const VirtioCore&) = delete;

  absl::Status Start(DeviceServices& services);
  uint64_t durable_memory_bytes() const;

  // The fields of both that are not the transport's, and what the device type adds.
  void Save(SavedDevice& device) const;
  void Save(uint32_t index, SavedQueue& queue) const;
  // Once, after Start(). Errors: InvalidArgument (impossible for this device).
  absl::Status Restore(const SavedDevice& device, absl::Span<const SavedQueue> queues,
                       absl::Span<const uint8_t> type_state);
  // As if the driver had written 0 to the status.
  void Reset();

  uint8_t status() const { return status_; }
  void WriteStatus(uint8_t value);

  uint64_t offered_features() const { return offered_features_; }
  uint64_t driver_features() const { return driver_features_; }
  void WriteDriverFeatures(uint64_t features);

  uint32_t queue_count() const { return static_cast<uint32_t>(queue_sizes_.size()); }
  const QueueSetup& setup(uint32_t index) const { return queues_[index]->setup; }
  // The set-up to change, or nullptr where the driver may not: outside FEATURES_OK..DRIVER_OK
  // (but for a queue that was reset), and while the queue is enabled.
  QueueSetup* MutableSetup(uint32_t index);
  bool queue_enabled(uint32_t index) const { return queues_[index]->ring.enabled(); }
  bool queue_resetting(uint32_t index) const { return queues_[index]->ring.stopping(); }
  void EnableQueue(uint32_t index);
  void ResetQueue(uint32_t index);  // VIRTIO_F_RING_RESET

  // The driver has rung, or may have.
  void Notify(uint32_t index);
  // As DeviceModel has them.
  bool HasWork() const;
  void DoWork();
  bool PrepareToSleep();
  void SetDmaAllowed(bool allowed);
  // What InterruptSink::InterruptDescriptor() gives may have changed.
  void OnInterruptsChanged();
  // As DeviceModel::SetServing(); initially true.
  void SetServing(bool serving);
  bool at_rest() const { return !resetting_ && device_->at_rest(); }
  bool dma_in_flight() const { return device_->dma_in_flight(); }
  void AppendMetrics(v1::DeviceMetrics& metrics) const;

  // VirtioServices.
  DeviceServices& host() override { return *host_; }
  void Complete(uint32_t queue, uint16_t head, uint32_t written_bytes) override;
  void Publish() override;
  void ServeLater(uint32_t queue) override;
  bool serving(uint32_t queue) const override { return queues_[queue]->ring.serving(); }
  bool stopping(uint32_t queue) const override { return queues_[queue]->ring.stopping(); }
  bool dma_allowed() const override { return dma_allowed_; }
  absl::Span<uint8_t> durable_memory() override { return type_memory_; }
  void ConfigChanged() override { interrupts_->OnConfigChanged(); }
  const QueueSetup* QueueToServe(uint32_t queue) const override;
  int InterruptDescriptor(uint32_t queue) const override {
    return interrupts_->InterruptDescriptor(queue);
  }
  void InterruptQueue(uint32_t queue) override;
  void QueuesStopped() override { FinishReset(); }
  void Fail(absl::string_view reason) override;

 private:
  struct Queue {
    Queue(uint16_t max_size, VirtioCore* core, absl::Span<uint8_t> durable_memory);
    Virtqueue ring;
    QueueSetup setup;
    uint32_t epoch = 0;      // how often it was enabled
    bool was_reset = false;  // by itself, after DRIVER_OK: may be set up and enabled again
    bool serve_later = false;
    bool completed = false;  // chains, since the last Publish()
    bool watched = false;    // HasWork() looks for new chains: the device could take one
    bool armed = true;       // the driver rings for the next chain
    RequestTimer timer;
  };

  absl::Status CheckRestorable(const SavedDevice& device) const;
  absl::Status RestoreQueue(uint32_t index, const SavedQueue& saved);
  bool MayServe() const;
  void BeginReset();
  void FinishReset();
  void UpdateServing();
  void NotifyAll();
  // One turn of the device type.
  void ServeQueue(uint32_t index);
  void OnServeLater();
  void PublishQueue(uint32_t index);
  void TraceTaken(uint32_t queue, const DescriptorChain& chain) const;
  void Stop(Queue& queue);

  VirtioDevice* const device_;
  InterruptSink* const interrupts_;
  DeviceServices* host_ = nullptr;
  channel::TraceRecorder trace_;
  uint64_t offered_features_ = 0;
  const std::vector<uint16_t> queue_sizes_;  // the largest that each may be
  const uint32_t chains_per_turn_;
  const uint32_t type_memory_bytes_;
  absl::Span<uint8_t> type_memory_;  // behind the queues' part of the durable memory
  const bool times_requests_;
  const bool lends_memory_;
  const bool lends_queues_;
  std::vector<std::unique_ptr<Queue>> queues_;  // from Start() on
  std::unique_ptr<EventFd> serve_later_;

  uint8_t status_ = 0;
  bool resetting_ = false;
  bool dma_allowed_ = false;
  bool host_serves_ = true;
  uint64_t driver_features_ = 0;
  uint32_t failures_ = 0;
  channel::LatencyHistogram request_latency_;  // of those that were timed, by this process
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VIRTIO_CORE_H_
