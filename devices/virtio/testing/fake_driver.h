#ifndef BULKHEAD_DEVICES_VIRTIO_TESTING_FAKE_DRIVER_H_
#define BULKHEAD_DEVICES_VIRTIO_TESTING_FAKE_DRIVER_H_

#include <stdint.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "base/guest_memory.h"
#include "devices/host/device_model.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::virtio {

struct Buffer {
  GuestAddress address = 0;
  uint32_t length = 0;
  bool writable = false;
};

struct UsedElement {
  uint32_t id = 0;
  uint32_t length = 0;
};

// The driver's side of a split virtqueue, as Linux has it, and beyond: single fields can be set
// to anything. May run on another thread than the device; itself thread-compatible.
class FakeQueue {
 public:
  // Lays the three parts out from `address` (16-byte aligned) on. SizeBytes() is what they take.
  FakeQueue(const GuestMemory& memory, GuestAddress address, uint16_t size, bool event_index);
  static uint64_t SizeBytes(uint16_t size);

  const QueueSetup& setup() const { return setup_; }

  // Puts a chain into free descriptors and makes it available. Returns its head; nothing if
  // there are too few free ones.
  std::optional<uint16_t> Add(absl::Span<const Buffer> buffers);
  // The same through one indirect descriptor, whose table is written to `table`.
  std::optional<uint16_t> AddIndirect(absl::Span<const Buffer> buffers, GuestAddress table);
  // True if the device wants a doorbell for what was added since the last call.
  bool NeedsDoorbell();

  // Takes the next used element and frees its chain.
  std::optional<UsedElement> PopUsed();
  // Asks for an interrupt at the next completion. True: there is one already.
  bool EnableInterrupts();
  // Asks for one after `count` more completions.
  void DelayInterrupts(uint16_t count);
  void DisableInterrupts();

  // What a driver must not do.
  void WriteDescriptor(uint16_t index, const Descriptor& descriptor);
  void MakeAvailable(uint16_t head);
  void SetAvailableIdx(uint16_t idx);
  uint16_t used_idx() const;

 private:
  uint8_t* descriptor(uint16_t index) { return descriptors_ + index * sizeof(Descriptor); }

  QueueSetup setup_;
  const GuestMemory& memory_;
  const uint16_t size_;
  const bool event_index_;
  uint8_t* descriptors_;
  uint8_t* available_;
  uint8_t* used_;
  uint16_t next_available_ = 0;
  uint16_t last_kicked_ = 0;
  uint16_t next_used_ = 0;
  std::vector<uint16_t> free_;
  std::vector<std::vector<uint16_t>> chains_;  // descriptors by head
};

// A virtio-pci driver: finds the registers through the capabilities and drives them in the order
// and the widths that Linux uses. The device does not poll: it goes to sleep after each turn.
class FakeDriver {
 public:
  FakeDriver(DeviceModel& model, FakeServices& services);

  // Fields of the common configuration.
  uint64_t Get(uint32_t field, uint8_t size_bytes);
  void Set(uint32_t field, uint8_t size_bytes, uint64_t value);
  uint8_t status() { return static_cast<uint8_t>(Get(kDeviceStatus, 1)); }
  uint64_t DeviceFeatures();
  void SetDriverFeatures(uint64_t features);
  uint8_t ReadIsr();
  uint64_t ReadConfig(uint64_t offset, uint8_t size_bytes);
  void WriteConfig(uint64_t offset, uint8_t size_bytes, uint64_t value);

  // Writes status 0 and waits for it. False: it never came.
  bool Reset();
  // Up to FEATURES_OK with what both sides know of `wanted` and VERSION_1. False: refused.
  bool Negotiate(uint64_t wanted);
  // Lays out and enables a queue, interrupting by vector index + 1.
  void SetUpQueue(uint16_t index, uint16_t size);
  // All of the above and DRIVER_OK, with bus mastering and MSI-X on; `size` 0: the maximum.
  bool Initialize(uint64_t wanted, uint16_t size = 0);

  uint64_t features() const { return features_; }
  FakeQueue& queue(uint16_t index) { return *queues_[index]; }
  // Rings if the device wants it, as Linux does.
  void Kick(uint16_t index);
  // Kicks, then runs the event loop until the next used element of the queue.
  std::optional<UsedElement> KickAndWait(uint16_t index);

  // Guest memory for this caller alone, 16-byte aligned.
  GuestAddress Allocate(uint64_t size_bytes);

 private:
  struct Place {
    uint8_t region = 0;
    uint64_t offset = 0;
    bool found = false;
  };

  DeviceModel& model_;
  FakeServices& services_;
  Place common_, notify_, isr_, device_;
  uint32_t notify_multiplier_ = 0;
  uint64_t features_ = 0;
  std::vector<std::unique_ptr<FakeQueue>> queues_;
  GuestAddress next_free_ = 0x1000;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_TESTING_FAKE_DRIVER_H_
