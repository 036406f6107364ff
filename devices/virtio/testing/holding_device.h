#ifndef BULKHEAD_DEVICES_VIRTIO_TESTING_HOLDING_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_TESTING_HOLDING_DEVICE_H_

#include <stdint.h>
#include <string.h>

#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/virtio/virtio_device.h"

namespace bulkhead::devices::virtio {

// A device type that holds chains in flight until the test lets them go.
class HoldingDevice : public VirtioDevice {
 public:
  static constexpr uint64_t kFeature = uint64_t{1} << 5;
  static constexpr uint16_t kQueueSizes[2] = {8, 16};
  static constexpr uint32_t kConfigSize = 6;

  VirtioIdentity Identify() const override {
    return {.model = "virtio-test",
            .type = 42,
            .pci_class = 0x123456,
            .config_size = kConfigSize,
            .queue_sizes = {kQueueSizes[0], kQueueSizes[1]},
            .chains_per_turn = chains_per_turn,
            .times_requests = true,
            .required_resources = {"thing"},
            .saved_state_bytes = kConfigSize,
            .state_version = 3};
  }
  absl::Status Start(VirtioServices& services) override {
    virtio = &services;
    return absl::OkStatus();
  }
  uint64_t features() const override { return kFeature; }
  void OnFeatures(uint64_t features) override { negotiated.push_back(features); }
  void BeginTurn(uint32_t queue) override { ++turns[queue]; }
  absl::Span<iovec> Room(uint32_t queue) override {
    return held[queue].size() < capacity ? absl::MakeSpan(storage) : absl::Span<iovec>();
  }
  void OnChain(uint32_t queue, const DescriptorChain& chain) override {
    held[queue].push_back(chain.head);
  }
  void EndBatch(uint32_t queue) override {
    if (completes_at_once) CompleteAll(queue);
  }
  void OnQueueStopping(uint32_t queue) override {
    ++stopping_calls[queue];
    if (!slow_to_stop) Release(queue);
  }
  void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const override {
    memcpy(out.data(), config + offset, out.size());
  }
  void WriteConfig(uint32_t offset, absl::Span<const uint8_t> bytes) override {
    memcpy(config + offset, bytes.data(), bytes.size());
    virtio->host().StateChanged();
  }
  size_t SaveState(absl::Span<uint8_t> out) const override {
    memcpy(out.data(), config, kConfigSize);
    return kConfigSize;
  }
  absl::Status RestoreState(absl::Span<const uint8_t> state) override {
    if (state.size() != kConfigSize) return absl::InvalidArgumentError("no such configuration");
    memcpy(config, state.data(), kConfigSize);
    return absl::OkStatus();
  }

  // Changes the configuration from the device's side.
  void ChangeConfig(uint8_t value) {
    memset(config, value, kConfigSize);
    virtio->ConfigChanged();
  }

  bool at_rest() const override { return held[0].empty() && held[1].empty(); }
  void AppendMetrics(v1::DeviceMetrics&) const override {}

  void CompleteAll(uint32_t queue) {
    for (const uint16_t head : held[queue]) virtio->Complete(queue, head, 7);
    held[queue].clear();
  }
  void Release(uint32_t queue) {
    CompleteAll(queue);
    virtio->Publish();
  }

  VirtioServices* virtio = nullptr;
  std::vector<uint64_t> negotiated;
  int turns[2] = {};
  int stopping_calls[2] = {};
  std::vector<uint16_t> held[2];
  iovec storage[kQueueSizes[1]];
  size_t capacity = std::numeric_limits<size_t>::max();  // of held[queue]
  bool slow_to_stop = false;
  bool completes_at_once = false;
  uint32_t chains_per_turn = 64;
  uint8_t config[kConfigSize] = {1, 2, 3, 4, 5, 6};
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_TESTING_HOLDING_DEVICE_H_
