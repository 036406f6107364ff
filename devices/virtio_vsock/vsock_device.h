#ifndef BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_DEVICE_H_
#define BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_DEVICE_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio_vsock/vsock_switch.h"

namespace bulkhead::devices::virtio {

// The socket device (virtio 1.2, section 5.10), streams only: its queues and its configuration.
// VsockSwitch has the connections.
//
// No chain stays in flight: one for the guest is taken only when there is a packet for it. So at a
// crash nothing of the queues is lost, but all connections are: their sockets end with the process.
// A successor says so to the guest, by the event TRANSPORT_RESET.
class VsockDevice : public VirtioDevice {
 public:
  static constexpr uint32_t kToGuest = 0;  // queues
  static constexpr uint32_t kFromGuest = 1;
  static constexpr uint32_t kEvents = 2;
  static constexpr uint16_t kQueueSize = 128;
  static constexpr uint16_t kEventQueueSize = 16;

  // Errors: InvalidArgument (no guest may have that CID).
  static absl::StatusOr<std::unique_ptr<VsockDevice>> Create(uint64_t guest_cid);

  VirtioIdentity Identify() const override;
  absl::Status Start(VirtioServices& services) override;
  uint64_t features() const override { return 0; }
  void OnFeatures(uint64_t features) override;
  void BeginTurn(uint32_t queue) override;
  absl::Span<iovec> Room(uint32_t queue) override;
  void OnChain(uint32_t queue, const DescriptorChain& chain) override;
  void OnQueueStopping(uint32_t) override {}  // nothing stays in flight
  void ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const override;
  void WriteConfig(uint32_t, absl::Span<const uint8_t>) override {}
  absl::Status RestoreState(absl::Span<const uint8_t>) override;
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

 private:
  explicit VsockDevice(uint32_t guest_cid);

  const uint32_t guest_cid_;
  VirtioServices* services_ = nullptr;
  VsockSwitch switch_;
  std::vector<iovec> storage_;  // of one chain
  bool live_ = false;           // the driver works
  bool reset_owed_ = false;     // the event
  bool packets_held_ = false;   // the guest must fetch output before its next packet is taken
  uint64_t transport_resets_ = 0;
  uint64_t small_buffers_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VSOCK_VSOCK_DEVICE_H_
