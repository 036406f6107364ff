#ifndef BULKHEAD_DEVICES_VIRTIO_PCI_TRANSPORT_H_
#define BULKHEAD_DEVICES_VIRTIO_PCI_TRANSPORT_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "devices/host/device_model.h"
#include "devices/virtio/virtio_core.h"
#include "devices/virtio/virtio_device.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {

// The one BAR of a virtio device. A page for each structure, so that a guest can map each with
// the caching and protection that suit it.
inline constexpr uint8_t kBar = 0;
inline constexpr uint64_t kBarCommon = 0x0000;
inline constexpr uint64_t kBarIsr = 0x1000;
inline constexpr uint64_t kBarDevice = 0x2000;
inline constexpr uint64_t kBarNotify = 0x3000;
inline constexpr uint64_t kBarSize = 0x4000;
inline constexpr uint64_t kBarStructureSize = 0x1000;
inline constexpr uint32_t kNotifyMultiplier = 4;
inline constexpr uint32_t kMaxQueues = kBarStructureSize / kNotifyMultiplier;

// A virtio device on PCI (virtio 1.2, section 4.1, without the legacy interface): its registers
// and interrupts around a VirtioCore. Registers take accesses of any width and alignment; what
// lies outside of them reads 0 and ignores writes.
//
// MSI-X vectors: one a queue and one for configuration changes; the driver decides which is which.
class PciTransport : public DeviceModel, private InterruptSink {
 public:
  // At most kMaxQueues queues.
  explicit PciTransport(std::unique_ptr<VirtioDevice> device);

  v1::PciInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;
  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t index) override;
  void OnFunctionState(const FunctionState& state) override;

 private:
  uint64_t ReadBar(uint64_t offset, uint8_t size_bytes);
  void WriteBar(uint64_t offset, uint8_t size_bytes, uint64_t value);
  uint64_t ReadCommon(uint64_t offset, uint8_t size_bytes) const;
  void WriteCommon(uint64_t offset, uint8_t size_bytes, uint64_t value);
  uint64_t ReadField(uint32_t field) const;
  void WriteField(uint32_t field, uint64_t value);
  void WriteQueueField(uint32_t field, uint64_t value);
  uint64_t ReadIsr();

  // VIRTIO_PCI_CAP_PCI_CFG: a window into the BAR for guests that cannot map it. Offsets count
  // from the capability's third byte.
  uint64_t ReadWindow(uint64_t offset, uint8_t size_bytes);
  void WriteWindow(uint64_t offset, uint8_t size_bytes, uint64_t value);
  bool WindowTarget(uint64_t& offset, uint8_t& size_bytes) const;

  void InterruptQueue(uint32_t queue) override;
  void InterruptConfig() override;
  void Interrupt(uint16_t vector, uint8_t isr_bit);

  const VirtioIdentity identity_;
  const std::unique_ptr<VirtioDevice> device_;
  VirtioCore core_;
  DeviceServices* services_ = nullptr;
  uint8_t window_region_ = 0;
  std::vector<uint8_t> window_;  // the body of the PCI_CFG capability

  FunctionState function_;
  uint32_t device_feature_select_ = 0;
  uint32_t driver_feature_select_ = 0;
  uint16_t queue_select_ = 0;
  uint16_t config_vector_;
  std::vector<uint16_t> queue_vectors_;
  uint8_t isr_ = 0;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_PCI_TRANSPORT_H_
