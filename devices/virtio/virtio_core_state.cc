// The state of a VirtioCore that outlives its process.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "devices/virtio/virtio_core.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint8_t kKnownStatus = kStatusAcknowledge | kStatusDriver | kStatusDriverOk |
                                 kStatusFeaturesOk | kStatusNeedsReset | kStatusFailed;

}  // namespace

void VirtioCore::Save(SavedDevice& device) const {
  device.driver_features = driver_features_;
  device.status = status_;
  device.resetting = resetting_;
}

void VirtioCore::Save(uint32_t index, SavedQueue& saved) const {
  const Queue& queue = *queues_[index];
  saved.descriptor_table = queue.setup.descriptor_table;
  saved.driver_area = queue.setup.driver_area;
  saved.device_area = queue.setup.device_area;
  saved.size = queue.setup.size;
  saved.epoch = queue.epoch;
  saved.state = queue.ring.stopping()  ? SavedQueueState::kStopping
                : queue.ring.enabled() ? SavedQueueState::kEnabled
                                       : SavedQueueState::kDisabled;
  saved.was_reset = queue.was_reset;
}

absl::Status VirtioCore::CheckRestorable(const SavedDevice& device) const {
  const auto has = [&](uint8_t bits) { return (device.status & bits) == bits; };
  if ((device.status & ~kKnownStatus) != 0 ||
      (has(kStatusFeaturesOk) && !has(kStatusAcknowledge | kStatusDriver)) ||
      (has(kStatusDriverOk) && !has(kStatusFeaturesOk)) || device.resetting > 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("impossible status 0x%x, resetting %d", device.status, device.resetting));
  }
  if (!has(kStatusFeaturesOk)) return absl::OkStatus();
  const uint64_t missing = device.driver_features & ~offered_features_;
  if (missing != 0 || (device.driver_features & kFeatureVersion1) == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the driver uses features 0x%x of which this device does not have 0x%x",
                        device.driver_features, missing));
  }
  return absl::OkStatus();
}

absl::Status VirtioCore::Restore(const SavedDevice& device, absl::Span<const SavedQueue> queues,
                                 absl::Span<const uint8_t> type_state) {
  RETURN_IF_ERROR(CheckRestorable(device));
  status_ = device.status;
  driver_features_ = device.driver_features;
  if ((status_ & kStatusFeaturesOk) != 0) device_->OnFeatures(driver_features_);
  RETURN_IF_ERROR(device_->RestoreState(type_state));
  for (uint32_t i = 0; i < queue_count(); ++i) {
    const absl::Status status = RestoreQueue(i, queues[i]);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("queue ", i, ": ", status.message()));
    }
  }
  // The I/O that the reset waited for has ended with the process.
  resetting_ = device.resetting != 0;
  FinishReset();
  return absl::OkStatus();
}

absl::Status VirtioCore::RestoreQueue(uint32_t index, const SavedQueue& saved) {
  Queue& queue = *queues_[index];
  queue.epoch = saved.epoch;
  if (saved.was_reset > 1 || saved.state > SavedQueueState::kStopping) {
    return absl::InvalidArgumentError("impossible state");
  }
  queue.was_reset = saved.was_reset != 0;
  // Stopping: the chains that it waited for have ended with the process, so it has stopped.
  if (saved.state == SavedQueueState::kStopping) return absl::OkStatus();
  queue.setup = {.size = saved.size,
                 .descriptor_table = saved.descriptor_table,
                 .driver_area = saved.driver_area,
                 .device_area = saved.device_area};
  if (saved.state == SavedQueueState::kDisabled) return absl::OkStatus();
  if ((status_ & kStatusFeaturesOk) == 0 || queue.was_reset) {
    return absl::InvalidArgumentError("enabled before FEATURES_OK, or after a reset");
  }
  const bool event_index = (driver_features_ & kFeatureEventIndex) != 0;
  const bool indirect = (driver_features_ & kFeatureIndirectDescriptors) != 0;
  if (lends_queues_) {
    return queue.ring.Enable(host_->memory(), queue.setup, event_index, indirect, queue.epoch);
  }
  return queue.ring.Resume(host_->memory(), queue.setup, event_index, indirect, queue.epoch);
}

}  // namespace bulkhead::devices::virtio
