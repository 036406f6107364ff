#include "devices/virtio/testing/fake_driver.h"

#include <stdlib.h>
#include <string.h>

#include <string>

namespace bulkhead::devices::virtio {

FakeDriver::FakeDriver(DeviceModel& model, FakeServices& services)
    : model_(model), services_(services) {
  services.set_sleeper(&model);
  const v1::DeviceInfo info = model.Describe();
  for (const v1::Capability& capability : info.pci().capabilities()) {
    // Struct virtio_pci_cap without its first two bytes.
    const std::string& body = capability.body();
    uint32_t offset;
    memcpy(&offset, &body[6], 4);
    const Place place{static_cast<uint8_t>(body[2]), offset, true};
    switch (static_cast<CapabilityType>(body[1])) {
      case CapabilityType::kCommon:
        common_ = place;
        break;
      case CapabilityType::kNotify:
        notify_ = place;
        memcpy(&notify_multiplier_, &body[14], 4);
        break;
      case CapabilityType::kIsr:
        isr_ = place;
        break;
      case CapabilityType::kDevice:
        device_ = place;
        break;
      case CapabilityType::kPciConfig:
        break;
    }
  }
  if (!common_.found || !notify_.found || !isr_.found) abort();
}

uint64_t FakeDriver::Get(uint32_t field, uint8_t size_bytes) {
  return model_.Read(common_.region, common_.offset + field, size_bytes);
}

void FakeDriver::Set(uint32_t field, uint8_t size_bytes, uint64_t value) {
  if (size_bytes == 8) {  // two halves, as Linux does
    Set(field, 4, value & 0xffffffff);
    Set(field + 4, 4, value >> 32);
    return;
  }
  model_.Write(common_.region, common_.offset + field, size_bytes, value);
}

uint64_t FakeDriver::DeviceFeatures() {
  Set(kDeviceFeatureSelect, 4, 0);
  const uint64_t low = Get(kDeviceFeature, 4);
  Set(kDeviceFeatureSelect, 4, 1);
  return low | Get(kDeviceFeature, 4) << 32;
}

void FakeDriver::SetDriverFeatures(uint64_t features) {
  features_ = features;
  Set(kDriverFeatureSelect, 4, 0);
  Set(kDriverFeature, 4, features & 0xffffffff);
  Set(kDriverFeatureSelect, 4, 1);
  Set(kDriverFeature, 4, features >> 32);
}

uint8_t FakeDriver::ReadIsr() {
  return static_cast<uint8_t>(model_.Read(isr_.region, isr_.offset, 1));
}

uint64_t FakeDriver::ReadConfig(uint64_t offset, uint8_t size_bytes) {
  if (!device_.found) abort();
  return model_.Read(device_.region, device_.offset + offset, size_bytes);
}

void FakeDriver::WriteConfig(uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (!device_.found) abort();
  model_.Write(device_.region, device_.offset + offset, size_bytes, value);
}

bool FakeDriver::Reset() {
  Set(kDeviceStatus, 1, 0);
  return services_.RunUntil([this] { return status() == 0; });
}

bool FakeDriver::Negotiate(uint64_t wanted) {
  Set(kDeviceStatus, 1, status() | kStatusAcknowledge);
  Set(kDeviceStatus, 1, status() | kStatusDriver);
  SetDriverFeatures(DeviceFeatures() & (wanted | kFeatureVersion1));
  Set(kDeviceStatus, 1, status() | kStatusFeaturesOk);
  return (status() & kStatusFeaturesOk) != 0;
}

void FakeDriver::SetUpQueue(uint16_t index, uint16_t size) {
  if (queues_.size() <= index) queues_.resize(index + 1);
  queues_[index] =
      std::make_unique<FakeQueue>(services_.memory(), Allocate(FakeQueue::SizeBytes(size)), size,
                                  (features_ & kFeatureEventIndex) != 0);
  const QueueSetup& setup = queues_[index]->setup();
  Set(kQueueSelect, 2, index);
  Set(kQueueSize, 2, setup.size);
  Set(kQueueDescriptors, 8, setup.descriptor_table);
  Set(kQueueDriver, 8, setup.driver_area);
  Set(kQueueDevice, 8, setup.device_area);
  Set(kQueueMsixVector, 2, index + 1);
  Set(kQueueEnable, 2, 1);
}

bool FakeDriver::Initialize(uint64_t wanted, uint16_t size) {
  model_.OnFunctionState({.bus_master = true, .msix_enabled = true});
  if (!Reset() || !Negotiate(wanted)) return false;
  Set(kConfigMsixVector, 2, 0);
  const uint16_t queues = static_cast<uint16_t>(Get(kNumQueues, 2));
  for (uint16_t i = 0; i < queues; ++i) {
    Set(kQueueSelect, 2, i);
    const uint16_t max_size = static_cast<uint16_t>(Get(kQueueSize, 2));
    SetUpQueue(i, size == 0 ? max_size : size);
  }
  Set(kDeviceStatus, 1, status() | kStatusDriverOk);
  services_.Sleep();
  return status() == (kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
}

void FakeDriver::Kick(uint16_t index) {
  if (!queues_[index]->NeedsDoorbell()) return;
  model_.OnDoorbell(index);
  services_.Sleep();
}

std::optional<UsedElement> FakeDriver::KickAndWait(uint16_t index) {
  Kick(index);
  std::optional<UsedElement> used;
  services_.RunUntil([&] { return (used = queues_[index]->PopUsed()).has_value(); });
  return used;
}

GuestAddress FakeDriver::Allocate(uint64_t size_bytes) {
  const GuestAddress address = next_free_;
  next_free_ = (next_free_ + size_bytes + 15) & ~uint64_t{15};
  if (services_.memory().HostPointer(address, size_bytes) == nullptr) abort();
  return address;
}

}  // namespace bulkhead::devices::virtio
