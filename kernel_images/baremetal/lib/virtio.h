#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/pci.h"

// A driver's side of virtio 1.2 over PCI (section 4.1), split queues (2.7). It also offers what
// no sane driver does, for tests of how a device bears it.

namespace bulkhead::guest {

inline constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kFeatureIndirect = uint64_t{1} << 28;
inline constexpr uint64_t kFeatureEventIndex = uint64_t{1} << 29;

inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;

inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWrite = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;

struct VirtqueueDescriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(VirtqueueDescriptor) == 16);

class VirtioDevice;

// One split queue with memory of its own. Single-threaded.
class Virtqueue {
 public:
  static constexpr uint16_t kMaxSize = 64;  // unless the program asks for more
  static constexpr uint16_t kLargestSize = 256;

  uint16_t size() const { return size_; }
  // To be filled by hand before Submit().
  VirtqueueDescriptor& descriptor(uint16_t index) { return memory_->descriptors[index]; }

  // Makes the chain that begins at `head` available.
  void Submit(uint16_t head);
  // Rings the queue's doorbell, whether or not the device wants it.
  void Notify() const;
  // Rings it only if the device wants to hear of what was submitted since the last call (2.7.10),
  // as drivers of operating systems do. Returns whether it rang.
  bool NotifyIfWanted();
  // The used index lags behind the available one.
  bool HasUsed() const;
  struct Used {
    uint32_t head;
    uint32_t length;
  };
  Used TakeUsed();
  // Submits, notifies and waits for the one answer. Fails the program if none comes.
  uint32_t Run(uint16_t head);

  // For interrupt moderation (2.7.7, 2.7.10), as drivers of operating systems do it. With the event
  // index an interrupt may still come after 65,535 used elements.
  void DisableInterrupts();
  // From now on the next used element interrupts. False: there is one already, which may not.
  bool EnableInterrupts();
  // The same of a later one: when three quarters of `pending`, which is not 0, are used. As Linux's
  // network driver waits for room to send. False: so many are used already.
  bool EnableInterruptsLater(uint16_t pending);
  // The parts of that.
  void SetInterruptsWanted(bool wanted);
  void SetUsedEvent(uint16_t index);
  uint16_t available_index() const { return memory_->available_index; }
  // How many used elements TakeUsed() has taken, modulo 2^16.
  uint16_t used_seen() const { return used_seen_; }

  // Where an onlooker sees the device's progress.
  uint64_t used_index_address() const { return reinterpret_cast<uint64_t>(&memory_->used_index); }

  // For hostile drivers.
  void ForceAvailableIndex(uint16_t index);

 private:
  friend class VirtioDevice;

  struct UsedElement {
    uint32_t head;
    uint32_t length;
  };
  struct Memory {
    alignas(4096) VirtqueueDescriptor descriptors[kLargestSize];
    alignas(4096) uint16_t available_flags;
    uint16_t available_index;
    uint16_t available_ring[kLargestSize];
    uint16_t used_event;
    alignas(4096) uint16_t used_flags;
    uint16_t used_index;
    UsedElement used_ring[kLargestSize];
    uint16_t available_event;
  };

  Memory* memory_ = nullptr;
  uint16_t size_ = 0;
  uint16_t used_seen_ = 0;
  uint16_t offered_index_ = 0;  // the available index at the last NotifyIfWanted()
  bool event_index_ = false;
  uint64_t doorbell_ = 0;
};

// One virtio function.
class VirtioDevice {
 public:
  static constexpr uint32_t kMaxQueues = 4;

  // Finds the device of that virtio type and its capabilities. Fails the program without one.
  explicit VirtioDevice(uint16_t type);
  // The device that is this function.
  explicit VirtioDevice(const PciFunction& function);

  // From now on each device that is made has vectors of its own, for programs that run at once;
  // else they are the same for all.
  static void UseSeparateVectors();

  // Resets the device, negotiates `wanted` plus VERSION_1 and sets up the first `queues` queues;
  // queue n interrupts MSI-X entry n, entry n sends vector(n) to the first CPU.
  // Queues have `max_size` entries at most. Returns the features offered. Fails the program if a
  // step is refused.
  uint64_t Start(uint64_t wanted, uint32_t queues, uint16_t max_size = Virtqueue::kMaxSize);
  void Reset() const;
  // Call it after Start(): changes of the device's configuration (2.5) interrupt `vector` of the
  // first CPU, by an MSI-X entry that no queue has.
  void RouteConfigInterrupt(uint32_t entry, uint8_t vector);

  Virtqueue& queue(uint32_t index) { return queues_[index]; }
  // Of a queue; kFirstVector + `index` unless UseSeparateVectors() was called. vector(kMaxQueues)
  // is free for RouteConfigInterrupt().
  uint8_t vector(uint32_t index) const { return static_cast<uint8_t>(first_vector_ + index); }
  uint8_t status() const;
  void SetStatus(uint8_t status) const;

  template <typename T>
  T ReadConfig(uint32_t offset) const;
  template <typename T>
  void WriteConfig(uint32_t offset, T value) const;

  const PciFunction& function() const { return function_; }
  const Msix& msix() const { return msix_; }

 private:
  uint64_t FindStructure(uint8_t type) const;
  uint64_t OfferedFeatures() const;
  void SetUpQueue(uint32_t index, bool event_index, uint16_t max_size);

  PciFunction function_;
  uint8_t first_vector_;
  Msix msix_;
  uint64_t common_;
  uint64_t notify_;
  uint32_t notify_multiplier_ = 0;
  uint64_t isr_;
  uint64_t config_;
  Virtqueue queues_[kMaxQueues];
};

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_VIRTIO_H_
