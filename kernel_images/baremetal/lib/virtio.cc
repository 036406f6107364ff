#include "kernel_images/baremetal/lib/virtio.h"

#include "kernel_images/baremetal/lib/cpu.h"
#include "kernel_images/baremetal/lib/interrupts.h"
#include "kernel_images/baremetal/lib/memory.h"
#include "kernel_images/baremetal/lib/report.h"

namespace bulkhead::guest {
namespace {

constexpr uint16_t kVirtioVendor = 0x1af4;
constexpr uint16_t kModernDeviceBase = 0x1040;

// Structures that a vendor capability points to (4.1.4).
constexpr uint8_t kCommonStructure = 1;
constexpr uint8_t kNotifyStructure = 2;
constexpr uint8_t kIsrStructure = 3;
constexpr uint8_t kConfigStructure = 4;

// The common configuration (4.1.4.3).
constexpr uint64_t kDeviceFeatureSelect = 0x00;
constexpr uint64_t kDeviceFeature = 0x04;
constexpr uint64_t kDriverFeatureSelect = 0x08;
constexpr uint64_t kDriverFeature = 0x0c;
constexpr uint64_t kConfigVector = 0x10;
constexpr uint64_t kQueueCount = 0x12;
constexpr uint64_t kDeviceStatus = 0x14;
constexpr uint64_t kQueueSelect = 0x16;
constexpr uint64_t kQueueSize = 0x18;
constexpr uint64_t kQueueVector = 0x1a;
constexpr uint64_t kQueueEnable = 0x1c;
constexpr uint64_t kQueueNotifyOffset = 0x1e;
constexpr uint64_t kQueueDescriptors = 0x20;
constexpr uint64_t kQueueAvailable = 0x28;
constexpr uint64_t kQueueUsed = 0x30;
constexpr uint16_t kNoVector = 0xffff;

constexpr uint16_t kUsedNoNotify = 1;  // 2.7.10

// The first vector of the next device, which has these many.
constexpr uint8_t kVectors = VirtioDevice::kMaxQueues + 1;
uint8_t next_vector = kFirstVector;
bool separate_vectors = false;

// 4.1.3.1: 64-bit fields are written by halves.
void Write64(uint64_t address, uint64_t value) {
  MmioWrite<uint32_t>(address, static_cast<uint32_t>(value));
  MmioWrite<uint32_t>(address + 4, static_cast<uint32_t>(value >> 32));
}

}  // namespace

void Virtqueue::Submit(uint16_t head) {
  const uint16_t index = memory_->available_index;
  memory_->available_ring[index % size_] = head;
  // release: the device that sees the index sees the ring entry and the descriptors.
  __atomic_store_n(&memory_->available_index, static_cast<uint16_t>(index + 1), __ATOMIC_RELEASE);
}

void Virtqueue::Notify() const {
  // A full fence (2.7.13.4.1): the index is visible before the device is woken.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  MmioWrite<uint16_t>(doorbell_, 0);
}

bool Virtqueue::NotifyIfWanted() {
  // A full fence (2.7.13.4.1) between the store of the available index and the load of what the
  // device wants. Its partner stands in the device between its store of that and its last look at
  // the index. Without both, the device could sleep and this side believe that it does not.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  const uint16_t old_index = offered_index_;
  offered_index_ = memory_->available_index;
  bool wanted;
  if (event_index_) {
    // Placed right after a ring of the negotiated size.
    const auto* event = reinterpret_cast<const uint16_t*>(&memory_->used_ring[size_]);
    const uint16_t index = __atomic_load_n(event, __ATOMIC_RELAXED);
    // 2.7.10: the available index has gone past it since the last call.
    wanted = static_cast<uint16_t>(offered_index_ - index - 1) <
             static_cast<uint16_t>(offered_index_ - old_index);
  } else {
    wanted = (__atomic_load_n(&memory_->used_flags, __ATOMIC_RELAXED) & kUsedNoNotify) == 0;
  }
  if (wanted) MmioWrite<uint16_t>(doorbell_, 0);
  return wanted;
}

bool Virtqueue::HasUsed() const {
  // acquire: pairs with the device's release of the index; then the element is there.
  return __atomic_load_n(&memory_->used_index, __ATOMIC_ACQUIRE) != used_seen_;
}

Virtqueue::Used Virtqueue::TakeUsed() {
  const UsedElement element = memory_->used_ring[used_seen_ % size_];
  ++used_seen_;
  return {element.head, element.length};
}

uint32_t Virtqueue::Run(uint16_t head) {
  Submit(head);
  Notify();
  EXPECT_TRUE(WaitFor([this] { return HasUsed(); }));
  const Used used = TakeUsed();
  EXPECT_EQ(used.head, head);
  return used.length;
}

void Virtqueue::DisableInterrupts() {
  if (event_index_) {
    SetUsedEvent(static_cast<uint16_t>(used_seen_ - 1));  // long past
  } else {
    SetInterruptsWanted(false);
  }
}

bool Virtqueue::EnableInterrupts() {
  if (event_index_) {
    SetUsedEvent(used_seen_);
  } else {
    SetInterruptsWanted(true);
  }
  // A full fence (2.7.13.3) between that store and the load of the used index: an element that the
  // device publishes without an interrupt, since it has not seen the store, is seen here.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return !HasUsed();
}

bool Virtqueue::EnableInterruptsLater(uint16_t pending) {
  const auto last = static_cast<uint16_t>(pending * 3 / 4);
  if (event_index_) {
    SetUsedEvent(static_cast<uint16_t>(used_seen_ + last));
  } else {
    SetInterruptsWanted(true);
  }
  // As in EnableInterrupts().
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  const uint16_t used = __atomic_load_n(&memory_->used_index, __ATOMIC_ACQUIRE);
  return static_cast<uint16_t>(used - used_seen_) <= last;
}

void Virtqueue::SetInterruptsWanted(bool wanted) {
  __atomic_store_n(&memory_->available_flags, wanted ? 0 : 1, __ATOMIC_SEQ_CST);
}

void Virtqueue::SetUsedEvent(uint16_t index) {
  // Placed right after a ring of the negotiated size.
  __atomic_store_n(&memory_->available_ring[size_], index, __ATOMIC_SEQ_CST);
}

void Virtqueue::ForceAvailableIndex(uint16_t index) {
  __atomic_store_n(&memory_->available_index, index, __ATOMIC_SEQ_CST);
}

VirtioDevice::VirtioDevice(uint16_t type)
    : VirtioDevice(FindFunction(kVirtioVendor, static_cast<uint16_t>(kModernDeviceBase + type))) {}

VirtioDevice::VirtioDevice(const PciFunction& function)
    : function_(function),
      first_vector_(next_vector),
      msix_(function_),
      common_(FindStructure(kCommonStructure)),
      notify_(FindStructure(kNotifyStructure)),
      isr_(FindStructure(kIsrStructure)),
      config_(FindStructure(kConfigStructure)) {
  if (common_ == 0 || notify_ == 0 || isr_ == 0) Fail("a virtio structure is missing");
  if (separate_vectors) {
    EXPECT_TRUE(first_vector_ + kVectors - 1 <= kLastVector);
    next_vector += kVectors;
  }
  for (uint32_t nth = 0;; ++nth) {
    const uint16_t capability = function_.FindCapability(kCapabilityVendor, nth);
    if (function_.Read<uint8_t>(static_cast<uint16_t>(capability + 3)) != kNotifyStructure) {
      continue;
    }
    notify_multiplier_ = function_.Read<uint32_t>(static_cast<uint16_t>(capability + 16));
    break;
  }
}

void VirtioDevice::UseSeparateVectors() { separate_vectors = true; }

uint64_t VirtioDevice::FindStructure(uint8_t type) const {
  for (uint32_t nth = 0;; ++nth) {
    const uint16_t capability = function_.FindCapability(kCapabilityVendor, nth);
    if (capability == 0) return 0;
    const auto at = [=](uint16_t offset) { return static_cast<uint16_t>(capability + offset); };
    if (function_.Read<uint8_t>(at(3)) != type) continue;
    const uint32_t bar = function_.Read<uint8_t>(at(4));
    return function_.ReadBar(bar).address + function_.Read<uint32_t>(at(8));
  }
}

uint8_t VirtioDevice::status() const { return MmioRead<uint8_t>(common_ + kDeviceStatus); }

void VirtioDevice::SetStatus(uint8_t status) const {
  MmioWrite<uint8_t>(common_ + kDeviceStatus, status);
}

void VirtioDevice::Reset() const {
  SetStatus(0);
  EXPECT_TRUE(WaitFor([this] { return status() == 0; }));
}

void VirtioDevice::RouteConfigInterrupt(uint32_t entry, uint8_t vector) {
  msix_.Route(entry, 0, vector);
  msix_.SetMasked(entry, false);
  MmioWrite<uint16_t>(common_ + kConfigVector, static_cast<uint16_t>(entry));
  EXPECT_EQ(MmioRead<uint16_t>(common_ + kConfigVector), entry);
}

uint64_t VirtioDevice::OfferedFeatures() const {
  uint64_t features = 0;
  for (uint32_t half = 0; half < 2; ++half) {
    MmioWrite<uint32_t>(common_ + kDeviceFeatureSelect, half);
    features |= uint64_t{MmioRead<uint32_t>(common_ + kDeviceFeature)} << (32 * half);
  }
  return features;
}

uint64_t VirtioDevice::Start(uint64_t wanted, uint32_t queues, uint16_t max_size) {
  EXPECT_TRUE(queues <= kMaxQueues && max_size <= Virtqueue::kLargestSize);
  wanted |= kFeatureVersion1;
  Reset();
  SetStatus(kStatusAcknowledge);
  SetStatus(kStatusAcknowledge | kStatusDriver);
  const uint64_t offered = OfferedFeatures();
  EXPECT_EQ(offered & wanted, wanted);
  for (uint32_t half = 0; half < 2; ++half) {
    MmioWrite<uint32_t>(common_ + kDriverFeatureSelect, half);
    MmioWrite<uint32_t>(common_ + kDriverFeature, static_cast<uint32_t>(wanted >> (32 * half)));
  }
  SetStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  EXPECT_TRUE((status() & kStatusFeaturesOk) != 0);

  MmioWrite<uint16_t>(common_ + kConfigVector, kNoVector);
  EXPECT_TRUE(MmioRead<uint16_t>(common_ + kQueueCount) >= queues);
  msix_.SetEnabled(true);
  for (uint32_t index = 0; index < queues; ++index) {
    SetUpQueue(index, (wanted & kFeatureEventIndex) != 0, max_size);
  }
  SetStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  EXPECT_EQ(status(), kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  return offered;
}

void VirtioDevice::SetUpQueue(uint32_t index, bool event_index, uint16_t max_size) {
  // Of each device of the bus, by its number.
  static Virtqueue::Memory memories[32][kMaxQueues];
  Virtqueue& queue = queues_[index];
  queue.memory_ = &memories[function_.device() % 32][index];
  memset(queue.memory_, 0, sizeof(*queue.memory_));
  queue.used_seen_ = 0;
  queue.offered_index_ = 0;
  queue.event_index_ = event_index;

  MmioWrite<uint16_t>(common_ + kQueueSelect, static_cast<uint16_t>(index));
  const uint16_t offered = MmioRead<uint16_t>(common_ + kQueueSize);
  EXPECT_TRUE(offered != 0);
  queue.size_ = offered < max_size ? offered : max_size;
  MmioWrite<uint16_t>(common_ + kQueueSize, queue.size_);
  EXPECT_EQ(MmioRead<uint16_t>(common_ + kQueueSize), queue.size_);
  msix_.Route(index, 0, vector(index));
  msix_.SetMasked(index, false);
  MmioWrite<uint16_t>(common_ + kQueueVector, static_cast<uint16_t>(index));
  EXPECT_EQ(MmioRead<uint16_t>(common_ + kQueueVector), index);
  Write64(common_ + kQueueDescriptors, reinterpret_cast<uint64_t>(queue.memory_->descriptors));
  Write64(common_ + kQueueAvailable, reinterpret_cast<uint64_t>(&queue.memory_->available_flags));
  Write64(common_ + kQueueUsed, reinterpret_cast<uint64_t>(&queue.memory_->used_flags));
  queue.doorbell_ =
      notify_ + uint64_t{MmioRead<uint16_t>(common_ + kQueueNotifyOffset)} * notify_multiplier_;
  MmioWrite<uint16_t>(common_ + kQueueEnable, 1);
  EXPECT_EQ(MmioRead<uint16_t>(common_ + kQueueEnable), 1);
}

template <typename T>
T VirtioDevice::ReadConfig(uint32_t offset) const {
  if constexpr (sizeof(T) == 8) {
    return ReadConfig<uint32_t>(offset) | (uint64_t{ReadConfig<uint32_t>(offset + 4)} << 32);
  } else {
    return MmioRead<T>(config_ + offset);
  }
}

template <typename T>
void VirtioDevice::WriteConfig(uint32_t offset, T value) const {
  MmioWrite<T>(config_ + offset, value);
}

template void VirtioDevice::WriteConfig<uint32_t>(uint32_t, uint32_t) const;
template uint8_t VirtioDevice::ReadConfig<uint8_t>(uint32_t) const;
template uint16_t VirtioDevice::ReadConfig<uint16_t>(uint32_t) const;
template uint32_t VirtioDevice::ReadConfig<uint32_t>(uint32_t) const;
template uint64_t VirtioDevice::ReadConfig<uint64_t>(uint32_t) const;

}  // namespace bulkhead::guest
