#ifndef BULKHEAD_DEVICES_VIRTIO_VIRTIO_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_VIRTIO_DEVICE_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "devices/host/device_model.h"
#include "devices/virtio/virtqueue.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {

// What a device type is, from its command line alone.
struct VirtioIdentity {
  std::string model;                  // for people: "virtio-blk"
  uint16_t type = 0;                  // virtio 1.2, section 5
  uint32_t pci_class = 0;             // 24 bits
  uint32_t config_size = 0;           // bytes of device configuration; 0: none
  std::vector<uint16_t> queue_sizes;  // the maximum of each queue, powers of two
  std::vector<std::string> required_resources;
  // Of SaveState(), at most; and what changes with its meaning.
  uint32_t saved_state_bytes = 0;
  uint32_t state_version = 0;
};

// What a device type gets from the part that all virtio devices share.
class VirtioServices {
 public:
  virtual ~VirtioServices() = default;

  virtual DeviceServices& host() = 0;
  virtual Virtqueue& queue(uint32_t index) = 0;

  // Shows the driver the completed chains of a queue, and interrupts it if it wants that. Must
  // also follow the completion of chains of a stopping queue: it ends the reset.
  virtual void Publish(uint32_t queue) = 0;

  // Calls OnQueue(queue) again soon, after other work had its turn, whatever the queue's state.
  virtual void ServeLater(uint32_t queue) = 0;

  // False while the guest has bus mastering off: guest memory must not be touched. OnQueue()
  // follows when it is on again.
  virtual bool dma_allowed() const = 0;

  // What ReadConfig() gives has changed, and not by the driver's doing: tells the driver
  // (virtio 1.2, section 2.5), as soon as it may be interrupted, and however many processes end
  // until then. The change itself must be in the state that is saved. May be called from
  // RestoreState() on.
  virtual void ConfigChanged() = 0;

  // The driver broke the device type's rules in a way that no request can report: asks it to
  // reset the device (DEVICE_NEEDS_RESET) and stops all queues.
  virtual void Fail(absl::string_view reason) = 0;
};

// A device type: what happens to the chains of its queues. One thread; no call may block.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  virtual VirtioIdentity Identify() const = 0;

  // Called once, first; the queues exist. `services` is gone when the destructor runs;
  // services.host() is not. Errors: the resources do not fit.
  virtual absl::Status Start(VirtioServices& services) = 0;

  // Feature bits of the device type. Constant after Start().
  virtual uint64_t features() const = 0;

  // The driver and the device have agreed on `features`; 0: the device was reset, nothing is in
  // flight any more.
  virtual void OnFeatures(uint64_t features) = 0;

  // Chains may be available in this queue: new ones, or first those that a process which died had
  // in flight, to be done again. Serve a bounded number; ServeLater() for the rest.
  virtual void OnQueue(uint32_t queue) = 0;

  // The queue is being reset with chains in flight: complete them soon, without touching guest
  // memory, and Publish(). May complete some within the call.
  virtual void OnQueueStopping(uint32_t queue) = 0;

  // Device configuration; the range lies within Identify().config_size.
  virtual void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const = 0;
  virtual void WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) = 0;

  // What the driver has changed beyond features and queues, as DeviceModel::Save() and Restore().
  // RestoreState() follows Start() and, where the driver had negotiated, OnFeatures().
  virtual size_t SaveState(absl::Span<uint8_t>) const { return 0; }
  virtual absl::Status RestoreState(absl::Span<const uint8_t>) { return absl::OkStatus(); }

  // Nothing that was popped is being worked on: a successor would find all of it in the queues.
  virtual bool at_rest() const = 0;
  // As DeviceModel::dma_in_flight().
  virtual bool dma_in_flight() const { return false; }
  virtual void AppendMetrics(v1::DeviceMetrics& metrics) const = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VIRTIO_DEVICE_H_
