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
  // The most chains that one turn takes from a queue: registers, heartbeats and other queues wait
  // for its end.
  uint32_t chains_per_turn = 16;
  // A chain is a request, done as soon as it can be: how long some of them take is measured. False:
  // chains are buffers that wait for something, as for a frame of a network.
  bool times_requests = false;
  std::vector<std::string> required_resources;
  // The most that SaveState() writes, what durable_memory() gives, and a version that changes with
  // the meaning of either.
  uint32_t saved_state_bytes = 0;
  uint32_t durable_memory_bytes = 0;
  uint32_t state_version = 0;
  // Another process gets guest memory (DeviceInfo.lends_descriptors): while dma_in_flight(), a
  // reset of the device waits.
  bool lends_memory = false;
  // It also takes the chains, not the transport: see VirtioDevice::OnQueuesChanged().
  bool lends_queues = false;
};

// What a device type gets from the part that all virtio devices share.
class VirtioServices {
 public:
  virtual ~VirtioServices() = default;

  virtual DeviceServices& host() = 0;

  // Gives a chain back, with the number of bytes written from the start of its writable part. The
  // driver sees it with the next Publish().
  virtual void Complete(uint32_t queue, uint16_t head, uint32_t written_bytes) = 0;

  // Shows the driver all completed chains, and interrupts it where it wants that. Each turn ends
  // with it; call it after completions outside of a turn. It also ends the reset of a queue.
  virtual void Publish() = 0;

  // Gives the queue a turn soon, after other work had its own, whatever the queue's state.
  virtual void ServeLater(uint32_t queue) = 0;

  // The queue gives chains, and guest memory may be touched. False: a turn follows when it does.
  virtual bool serving(uint32_t queue) const = 0;

  // The queue is being reset: see OnQueueStopping().
  virtual bool stopping(uint32_t queue) const = 0;

  // False while the guest has bus mastering off: guest memory must not be touched. Each queue gets
  // a turn when it is on again.
  virtual bool dma_allowed() const = 0;

  // Memory of Identify().durable_memory_bytes, as DeviceServices::durable_memory() has it, 8-byte
  // aligned. Empty: the device host has none.
  virtual absl::Span<uint8_t> durable_memory() = 0;

  // The device has changed what ReadConfig() gives: notifies the driver (virtio 1.2, section 2.5)
  // as soon as it may be interrupted, also from a later process. The change itself must be in the
  // saved state. May be called from RestoreState() on.
  virtual void ConfigChanged() = 0;

  // ---- For devices that lend memory.
  // dma_in_flight() has become false: a reset that waits for that can end.
  virtual void QueuesStopped() = 0;

  // ---- For devices that lend their queues.
  // A queue that is to be served now, or nullptr. Guest memory holds its rings.
  virtual const QueueSetup* QueueToServe(uint32_t queue) const = 0;
  // What interrupts the driver for that queue (DeviceServices::vector_descriptor()), or -1: then
  // only InterruptQueue() does.
  virtual int InterruptDescriptor(uint32_t queue) const = 0;
  // Interrupts the driver, needlessly perhaps, if that queue is to be served.
  virtual void InterruptQueue(uint32_t queue) = 0;

  // The driver broke the device type's rules in a way that no request can report: asks it to
  // reset the device (DEVICE_NEEDS_RESET) and stops all queues.
  virtual void Fail(absl::string_view reason) = 0;
};

// A device type: what happens to the chains of its queues. One thread; no call may block.
//
// The transport serves a queue in turns: when the driver rings, when polling finds chains, and
// after ServeLater(). It calls BeginTurn(); Room() and OnChain() for each chain; EndBatch(). It
// repeats the last three while the driver has added further chains. First come the chains that a
// process had in flight when it died: they are done again.
//
// A device that lends its queues (VirtioIdentity) gets no chains: it sees that another process
// serves those that QueueToServe() names, and no others. All of its feature bits are its own then.
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

  // What QueueToServe() or InterruptDescriptor() gives may have changed, of any queue.
  virtual void OnQueuesChanged() {}
  // The driver has rung for a queue that is to be served, and the vmm did not make an event of it.
  virtual void OnQueueRung(uint32_t /*queue*/) {}

  // A turn begins, perhaps of a queue that gives no chains now (reset, bus mastering off).
  virtual void BeginTurn(uint32_t /*queue*/) {}
  // Where the buffers of the next chain go: Virtqueue::StorageSize() entries, which the device
  // keeps until it completes that chain. Empty: it can take no chain now, and calls ServeLater()
  // when it can; the driver does not ring until then.
  virtual absl::Span<iovec> Room(uint32_t queue) = 0;
  // Takes a chain, whose buffers are in what Room() gave last. Complete() follows, now or later.
  virtual void OnChain(uint32_t queue, const DescriptorChain& chain) = 0;
  // No chain follows at once: starts what OnChain() has gathered.
  virtual void EndBatch(uint32_t /*queue*/) {}

  // Work that OnChain() or EndBatch() started has ended, as memory shows it: loads, no more. While
  // the device polls, the transport asks in a loop, and calls TakeResults() then. While it sleeps,
  // a descriptor that the device watches has to wake it.
  virtual bool HasResults() const { return false; }
  virtual void TakeResults() {}

  // The queue is being reset with chains in flight: complete them soon, without touching guest
  // memory, and Publish(). May complete some within the call.
  virtual void OnQueueStopping(uint32_t queue) = 0;

  // Device configuration; the range lies within Identify().config_size.
  virtual void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const = 0;
  virtual void WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) = 0;

  // The state that the driver has changed beyond features and queues, as DeviceModel::Save() and
  // Restore() have it.
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
