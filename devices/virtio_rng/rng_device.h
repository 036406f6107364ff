#ifndef BULKHEAD_DEVICES_VIRTIO_RNG_RNG_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_RNG_RNG_DEVICE_H_

#include <stdint.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/virtio/virtio_device.h"

namespace bulkhead::devices::virtio {

// The entropy device (virtio 1.2, section 5.4): fills the driver's buffers from the host
// kernel's generator. Needs no resource.
class RngDevice : public VirtioDevice {
 public:
  // What one request gets at most, and one turn serves at most: a guest cannot keep this
  // process, or the host's generator, busy for long at a time.
  static constexpr uint32_t kMaxRequestBytes = 64 * 1024;
  static constexpr uint32_t kMaxRequestsPerTurn = 16;
  static constexpr uint16_t kQueueSize = 64;

  VirtioIdentity Identify() const override;
  // Errors: Unavailable (the host's generator is not seeded yet: reading would block).
  absl::Status Start(VirtioServices& services) override;
  uint64_t features() const override { return 0; }
  void OnFeatures(uint64_t) override {}
  // Each chain is completed at once, so one storage is enough.
  absl::Span<iovec> Room(uint32_t) override { return absl::MakeSpan(storage_); }
  void OnChain(uint32_t queue, const DescriptorChain& chain) override;
  void OnQueueStopping(uint32_t) override {}  // nothing stays in flight
  void ReadConfig(uint32_t, absl::Span<uint8_t>) const override {}
  void WriteConfig(uint32_t, absl::Span<const uint8_t>) override {}
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

 private:
  VirtioServices* services_ = nullptr;
  std::vector<iovec> storage_;
  uint64_t requests_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_RNG_RNG_DEVICE_H_
