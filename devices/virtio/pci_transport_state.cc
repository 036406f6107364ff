// The state of a PciTransport that outlives its process.
#include <string.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::virtio {

size_t PciTransport::Save(absl::Span<uint8_t> out) const {
  SavedDevice device = {};
  core_.Save(device);
  device.device_feature_select = device_feature_select_;
  device.driver_feature_select = driver_feature_select_;
  device.queue_count = static_cast<uint16_t>(core_.queue_count());
  device.queue_select = queue_select_;
  device.config_vector = config_vector_;
  device.isr = isr_;
  device.config_generation = config_generation_;
  device.config_interrupt_owed = config_interrupt_owed_;
  memcpy(device.window, window_.bytes().data(), sizeof(device.window));

  uint8_t* next = out.data();
  const auto append = [&next](const auto& object) {
    memcpy(next, &object, sizeof(object));
    next += sizeof(object);
  };
  append(device);
  for (uint32_t i = 0; i < core_.queue_count(); ++i) {
    SavedQueue queue = {};
    core_.Save(i, queue);
    queue.vector = queue_vectors_[i];
    append(queue);
  }
  const size_t bytes = next - out.data();
  return bytes + device_->SaveState(out.subspan(bytes, identity_.saved_state_bytes));
}

absl::Status PciTransport::Restore(absl::Span<const uint8_t> state) {
  const size_t fixed = sizeof(SavedDevice) + core_.queue_count() * sizeof(SavedQueue);
  if (state.size() < fixed || state.size() > fixed + identity_.saved_state_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("saved state of ", state.size(), " bytes, not ",
                                                   fixed, " to ",
                                                   fixed + identity_.saved_state_bytes));
  }
  SavedDevice device;
  memcpy(&device, state.data(), sizeof(device));
  std::vector<SavedQueue> queues(core_.queue_count());
  memcpy(queues.data(), state.data() + sizeof(device), queues.size() * sizeof(SavedQueue));
  restoring_ = true;
  RETURN_IF_ERROR(RestoreTransport(device, queues));
  RETURN_IF_ERROR(core_.Restore(device, queues, state.subspan(fixed)));
  interrupts_owed_ = true;
  return absl::OkStatus();
}

absl::Status PciTransport::RestoreTransport(const SavedDevice& device,
                                            absl::Span<const SavedQueue> queues) {
  if (device.queue_count != core_.queue_count()) {
    return absl::InvalidArgumentError(
        absl::StrCat(device.queue_count, " queues, instead of ", core_.queue_count()));
  }
  const auto is_vector = [this](uint16_t v) { return v <= core_.queue_count() || v == kNoVector; };
  for (const SavedQueue& queue : queues) {
    if (!is_vector(queue.vector)) {
      return absl::InvalidArgumentError(absl::StrCat("impossible vector ", queue.vector));
    }
  }
  if (!is_vector(device.config_vector) || (device.isr & ~(kIsrQueue | kIsrConfig)) != 0 ||
      device.config_interrupt_owed > 1) {
    return absl::InvalidArgumentError(absl::StrCat("impossible interrupts: configuration vector ",
                                                   device.config_vector, ", ISR ", device.isr,
                                                   ", owed ", device.config_interrupt_owed));
  }
  static_assert(sizeof(device.window) == ConfigWindow::kSize);
  if (!window_.Restore(device.window)) {
    return absl::InvalidArgumentError("a constant capability has changed");
  }
  device_feature_select_ = device.device_feature_select;
  driver_feature_select_ = device.driver_feature_select;
  queue_select_ = device.queue_select;
  config_vector_ = device.config_vector;
  isr_ = device.isr;
  config_generation_ = device.config_generation;
  config_interrupt_owed_ = device.config_interrupt_owed != 0;
  for (size_t i = 0; i < queues.size(); ++i) queue_vectors_[i] = queues[i].vector;
  return absl::OkStatus();
}

void PciTransport::Reset() {
  device_feature_select_ = driver_feature_select_ = 0;
  queue_select_ = 0;
  config_generation_ = 0;
  window_.Reset();
  ResetInterrupts();
  core_.Reset();
}

}  // namespace bulkhead::devices::virtio
