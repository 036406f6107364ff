#include "devices/virtio/pci_transport.h"

#include <string.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/access_mask.h"
#include "devices/virtio/pci_bar.h"
#include "devices/virtio/virtio_layout.h"
#include "proto/contract.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint8_t kPciRevision = 1;       // 4.1.2: at least 1
constexpr uint16_t kPciSubsystem = 0x40;  // 0x40 and above: not transitional

std::string CapabilityBody(CapabilityType type, uint64_t offset, uint64_t length,
                           size_t extra_bytes) {
  std::string body(kCapabilityBody + extra_bytes, '\0');
  body[0] = static_cast<char>(2 + body.size());  // cap_len counts the whole capability
  body[1] = static_cast<char>(type);
  body[kCapabilityBar] = kBar;
  const uint32_t place[] = {static_cast<uint32_t>(offset), static_cast<uint32_t>(length)};
  memcpy(&body[kCapabilityOffset], place, sizeof(place));
  return body;
}

// Struct virtio_pci_common_cfg, field by field.
struct Field {
  uint32_t offset;
  uint32_t size;
};
constexpr Field kFields[] = {
    {kDeviceFeatureSelect, 4}, {kDeviceFeature, 4},    {kDriverFeatureSelect, 4},
    {kDriverFeature, 4},       {kConfigMsixVector, 2}, {kNumQueues, 2},
    {kDeviceStatus, 1},        {kConfigGeneration, 1}, {kQueueSelect, 2},
    {kQueueSize, 2},           {kQueueMsixVector, 2},  {kQueueEnable, 2},
    {kQueueNotifyOffset, 2},   {kQueueDescriptors, 8}, {kQueueDriver, 8},
    {kQueueDevice, 8},         {kQueueNotifyData, 2},  {kQueueReset, 2},
};

// Copies the bytes that [from_offset, +from_size) and [to_offset, +to_size) share.
void CopyOverlap(uint64_t from_offset, uint64_t from_size, uint64_t from, uint64_t to_offset,
                 uint64_t to_size, uint64_t& to) {
  const uint64_t begin = std::max(from_offset, to_offset);
  const uint64_t end = std::min(from_offset + from_size, to_offset + to_size);
  if (begin >= end) return;
  memcpy(reinterpret_cast<uint8_t*>(&to) + (begin - to_offset),
         reinterpret_cast<const uint8_t*>(&from) + (begin - from_offset), end - begin);
}

bool Overlaps(const Field& field, uint64_t offset, uint8_t size_bytes) {
  return offset < field.offset + field.size && field.offset < offset + size_bytes;
}

}  // namespace

PciTransport::PciTransport(std::unique_ptr<VirtioDevice> device)
    : identity_(device->Identify()),
      device_(std::move(device)),
      core_(device_.get(), this),
      window_(CapabilityBody(CapabilityType::kPciConfig, 0, 0, 4)),
      config_vector_(kNoVector),
      queue_vectors_(identity_.queue_sizes.size(), kNoVector) {}

uint8_t PciTransport::window_region() const {
  return kCapabilityRegionBase + (identity_.config_size != 0 ? 4 : 3);
}

v1::DeviceInfo PciTransport::Describe() const {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model(identity_.model);
  info.set_uses_dma(true);  // the queues
  info.set_lends_descriptors(identity_.lends_memory);
  for (const std::string& resource : identity_.required_resources) {
    info.add_required_resources(resource);
  }
  info.set_saved_state_bytes(static_cast<uint32_t>(sizeof(SavedDevice) +
                                                   core_.queue_count() * sizeof(SavedQueue) +
                                                   identity_.saved_state_bytes));
  info.set_durable_memory_bytes(core_.durable_memory_bytes());
  info.set_state_version(kSavedStateVersion << 16 | identity_.state_version);
  const uint32_t queues = core_.queue_count();
  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(kPciVendor);
  pci.set_device_id(kPciDeviceBase + identity_.type);
  pci.set_class_code(identity_.pci_class);
  pci.set_revision_id(kPciRevision);
  pci.set_subsystem_vendor_id(kPciVendor);
  pci.set_subsystem_id(kPciSubsystem);
  pci.set_msix_vectors(queues + 1);
  pci.set_has_intx(true);
  v1::Bar& bar = *pci.add_bars();
  bar.set_index(kBar);
  bar.set_size_bytes(kBarSize);
  bar.set_is_64bit(true);

  const auto add_capability = [&pci](std::string body, bool forwarded) {
    v1::Capability& capability = *pci.add_capabilities();
    capability.set_id(kPciCapabilityVendorSpecific);
    capability.set_body(std::move(body));
    capability.set_forwarded(forwarded);
  };
  add_capability(CapabilityBody(CapabilityType::kCommon, kBarCommon, kCommonConfigSize, 0), false);
  std::string notify =
      CapabilityBody(CapabilityType::kNotify, kBarNotify, queues * kNotifyMultiplier, 4);
  memcpy(&notify[kCapabilityBody], &kNotifyMultiplier, 4);
  add_capability(std::move(notify), false);
  add_capability(CapabilityBody(CapabilityType::kIsr, kBarIsr, 1, 0), false);
  if (identity_.config_size != 0) {
    add_capability(CapabilityBody(CapabilityType::kDevice, kBarDevice, identity_.config_size, 0),
                   false);
  }
  // Stays the last: see window_region().
  add_capability(CapabilityBody(CapabilityType::kPciConfig, 0, 0, 4), true);

  for (uint32_t i = 0; i < queues; ++i) {
    v1::Doorbell& doorbell = *info.add_doorbells();
    doorbell.set_region(kBar);
    doorbell.set_offset(kBarNotify + i * kNotifyMultiplier);
    doorbell.set_size_bytes(0);
  }
  return info;
}

absl::Status PciTransport::Start(DeviceServices& services) {
  services_ = &services;
  return core_.Start(services);
}

uint64_t PciTransport::Read(uint8_t region, uint64_t offset, uint8_t size_bytes) {
  if (region == kBar) return ReadBar(offset, size_bytes);
  if (region == window_region()) return ReadWindow(offset, size_bytes);
  return 0;
}

void PciTransport::Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (region == kBar) WriteBar(offset, size_bytes, value);
  if (region == window_region()) WriteWindow(offset, size_bytes, value);
}

void PciTransport::OnDoorbell(uint32_t index) {
  if (index < core_.queue_count()) core_.Notify(index);
}

void PciTransport::OnFunctionState(const FunctionState& state) {
  function_ = state;
  restoring_ = false;
  // The line follows what the driver has chosen; pending causes stay readable in the ISR.
  services_->SetIntx(!function_.msix_enabled && isr_ != 0);
  core_.SetDmaAllowed(function_.bus_master);
  core_.OnInterruptsChanged();
  RaiseOwedInterrupts();
  RaiseOwedConfigInterrupt();
}

uint64_t PciTransport::ReadBar(uint64_t offset, uint8_t size_bytes) {
  const uint64_t within = offset % kBarStructureSize;
  switch (offset - within) {
    case kBarCommon:
      return ReadCommon(within, size_bytes);
    case kBarIsr:
      return within == 0 ? ReadIsr() : 0;
    case kBarDevice: {
      uint64_t value = 0;
      if (within >= identity_.config_size) return 0;
      const uint64_t readable = std::min<uint64_t>(size_bytes, identity_.config_size - within);
      device_->ReadConfig(static_cast<uint32_t>(within),
                          absl::MakeSpan(reinterpret_cast<uint8_t*>(&value), readable));
      return value;
    }
    default:
      return 0;
  }
}

void PciTransport::WriteBar(uint64_t offset, uint8_t size_bytes, uint64_t value) {
  const uint64_t within = offset % kBarStructureSize;
  switch (offset - within) {
    case kBarCommon:
      WriteCommon(within, size_bytes, value);
      return;
    case kBarDevice: {
      if (within >= identity_.config_size) return;
      const uint64_t writable = std::min<uint64_t>(size_bytes, identity_.config_size - within);
      device_->WriteConfig(static_cast<uint32_t>(within),
                           absl::MakeSpan(reinterpret_cast<const uint8_t*>(&value), writable));
      return;
    }
    case kBarNotify:
      // Doorbells that the vmm did not turn into events, and those rung through the window.
      OnDoorbell(static_cast<uint32_t>(within / kNotifyMultiplier));
      return;
    default:
      return;
  }
}

uint64_t PciTransport::ReadCommon(uint64_t offset, uint8_t size_bytes) const {
  uint64_t value = 0;
  for (const Field& field : kFields) {
    if (!Overlaps(field, offset, size_bytes)) continue;
    CopyOverlap(field.offset, field.size, ReadField(field.offset), offset, size_bytes, value);
  }
  return value;
}

void PciTransport::WriteCommon(uint64_t offset, uint8_t size_bytes, uint64_t value) {
  for (const Field& field : kFields) {
    if (!Overlaps(field, offset, size_bytes)) continue;
    uint64_t merged = ReadField(field.offset);  // a partial write keeps the other bytes
    CopyOverlap(offset, size_bytes, value, field.offset, field.size, merged);
    WriteField(field.offset, merged);
  }
}

uint64_t PciTransport::ReadField(uint32_t field) const {
  const auto word = [](uint64_t features, uint32_t select) -> uint64_t {
    return select < 2 ? static_cast<uint32_t>(features >> (32 * select)) : 0;
  };
  switch (field) {
    case kDeviceFeatureSelect:
      return device_feature_select_;
    case kDeviceFeature:
      return word(core_.offered_features(), device_feature_select_);
    case kDriverFeatureSelect:
      return driver_feature_select_;
    case kDriverFeature:
      return word(core_.driver_features(), driver_feature_select_);
    case kConfigMsixVector:
      return config_vector_;
    case kNumQueues:
      return core_.queue_count();
    case kDeviceStatus:
      return core_.status();
    case kConfigGeneration:
      return config_generation_;
    case kQueueSelect:
      return queue_select_;
    default:
      break;
  }
  if (queue_select_ >= core_.queue_count()) return 0;  // queue_size 0: there is no such queue
  const QueueSetup& setup = core_.setup(queue_select_);
  switch (field) {
    case kQueueSize:
      return setup.size;
    case kQueueMsixVector:
      return queue_vectors_[queue_select_];
    case kQueueEnable:
      return core_.queue_enabled(queue_select_);
    case kQueueNotifyOffset:
      return queue_select_;
    case kQueueDescriptors:
      return setup.descriptor_table;
    case kQueueDriver:
      return setup.driver_area;
    case kQueueDevice:
      return setup.device_area;
    case kQueueReset:
      return core_.queue_resetting(queue_select_);
    default:
      return 0;
  }
}

template <typename T>
void PciTransport::Set(T& place, uint64_t value) {
  if (std::exchange(place, static_cast<T>(value)) != static_cast<T>(value)) {
    services_->StateChanged();
  }
}

void PciTransport::ResetInterrupts() {
  isr_ = 0;
  interrupts_owed_ = config_interrupt_owed_ = false;
  services_->SetIntx(false);
  config_vector_ = kNoVector;
  std::fill(queue_vectors_.begin(), queue_vectors_.end(), kNoVector);
}

int PciTransport::InterruptDescriptor(uint32_t queue) const {
  const uint16_t vector = queue_vectors_[queue];
  const bool is_message = function_.msix_enabled && vector != kNoVector;
  return is_message ? services_->vector_descriptor(vector) : -1;
}

void PciTransport::WriteField(uint32_t field, uint64_t value) {
  switch (field) {
    case kDeviceFeatureSelect:
      Set(device_feature_select_, value);
      return;
    case kDriverFeatureSelect:
      Set(driver_feature_select_, value);
      return;
    case kDriverFeature: {
      if (driver_feature_select_ >= 2) return;
      const uint32_t shift = 32 * driver_feature_select_;
      const uint64_t others = core_.driver_features() & ~(uint64_t{0xffffffff} << shift);
      core_.WriteDriverFeatures(others | (value << shift));
      return;
    }
    case kConfigMsixVector:
      Set(config_vector_, value <= core_.queue_count() ? value : kNoVector);
      return;
    case kDeviceStatus:
      if (value == 0) ResetInterrupts();
      core_.WriteStatus(static_cast<uint8_t>(value));
      RaiseOwedInterrupts();
      RaiseOwedConfigInterrupt();
      return;
    case kQueueSelect:
      Set(queue_select_, value);
      return;
    default:
      if (queue_select_ < core_.queue_count()) WriteQueueField(field, value);
      return;
  }
}

void PciTransport::WriteQueueField(uint32_t field, uint64_t value) {
  const uint16_t queue = queue_select_;
  switch (field) {
    case kQueueMsixVector:
      Set(queue_vectors_[queue], value <= core_.queue_count() ? value : kNoVector);
      core_.OnInterruptsChanged();
      return;
    case kQueueEnable:
      if (value == 1) core_.EnableQueue(queue);
      return;
    case kQueueReset:
      if (value == 1) core_.ResetQueue(queue);
      return;
    default:
      break;
  }
  QueueSetup* setup = core_.MutableSetup(queue);
  if (setup == nullptr) return;
  switch (field) {
    case kQueueSize:
      Set(setup->size, value);
      return;
    case kQueueDescriptors:
      Set(setup->descriptor_table, value);
      return;
    case kQueueDriver:
      Set(setup->driver_area, value);
      return;
    case kQueueDevice:
      Set(setup->device_area, value);
      return;
    default:
      return;
  }
}

uint64_t PciTransport::ReadIsr() {
  const uint8_t isr = std::exchange(isr_, 0);
  // Unlike the other bit, it is saved: see OnConfigChanged().
  if ((isr & kIsrConfig) != 0) services_->StateChanged();
  services_->SetIntx(false);
  return isr;
}

uint64_t PciTransport::ReadWindow(uint64_t offset, uint8_t size_bytes) {
  const auto target = window_.target();
  if (ConfigWindow::TouchesData(offset, size_bytes) && target.has_value()) {
    window_.set_data(static_cast<uint32_t>(ReadBar(target->offset, target->size_bytes)));
    services_->StateChanged();
  }
  return window_.Read(offset, size_bytes);
}

void PciTransport::WriteWindow(uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (window_.Write(offset, size_bytes, value)) services_->StateChanged();
  const auto target = window_.target();
  if (!ConfigWindow::TouchesData(offset, size_bytes) || !target.has_value()) return;
  WriteBar(target->offset, target->size_bytes, window_.data() & AccessMask(target->size_bytes));
}

void PciTransport::InterruptQueue(uint32_t queue) { Interrupt(queue_vectors_[queue], kIsrQueue); }

void PciTransport::InterruptConfig() {
  config_interrupt_owed_ = true;
  RaiseOwedConfigInterrupt();
}

// A change is saved with its interrupt: as owed, or as the ISR's bit, or after the message was
// sent. So a death in the middle causes one interrupt too many, never one too few.
void PciTransport::OnConfigChanged() {
  ++config_generation_;
  services_->StateChanged();
  InterruptConfig();
}

void PciTransport::RaiseOwedConfigInterrupt() {
  const bool possible = function_.bus_master || !function_.msix_enabled;
  if (!config_interrupt_owed_ || !possible || restoring_) return;
  // Before DRIVER_OK nothing is signalled, but the driver may have read the configuration already.
  if ((core_.status() & kStatusDriverOk) == 0) return;
  config_interrupt_owed_ = false;
  services_->StateChanged();
  Interrupt(config_vector_, kIsrConfig);
}

// It is not known which interrupts the predecessor has raised: any may be missing, and a spurious
// one does no harm.
void PciTransport::RaiseOwedInterrupts() {
  const bool possible = function_.bus_master || !function_.msix_enabled;
  // Before DRIVER_OK nothing is signalled; but the predecessor may have died while the driver set
  // it, and then that write is applied again.
  if (!possible || (core_.status() & kStatusDriverOk) == 0) return;
  if (!std::exchange(interrupts_owed_, false)) return;
  for (uint32_t i = 0; i < core_.queue_count(); ++i) {
    if (core_.queue_enabled(i)) InterruptQueue(i);
  }
  if ((core_.status() & kStatusNeedsReset) != 0) InterruptConfig();
}

// The ISR is not saved with each interrupt of a queue: RaiseOwedInterrupts() sets it again.
void PciTransport::Interrupt(uint16_t vector, uint8_t isr_bit) {
  if (function_.msix_enabled) {
    if (vector != kNoVector && function_.bus_master) services_->SignalMsix(vector);
    return;
  }
  isr_ |= isr_bit;
  services_->SetIntx(true);
}

}  // namespace bulkhead::devices::virtio
