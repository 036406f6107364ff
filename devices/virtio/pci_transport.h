#ifndef BULKHEAD_DEVICES_VIRTIO_PCI_TRANSPORT_H_
#define BULKHEAD_DEVICES_VIRTIO_PCI_TRANSPORT_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/host/device_model.h"
#include "devices/virtio/config_window.h"
#include "devices/virtio/saved_state.h"
#include "devices/virtio/virtio_core.h"
#include "devices/virtio/virtio_device.h"
#include "devices/virtio/virtio_layout.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {

// A virtio device on PCI (virtio 1.2, section 4.1, without the legacy interface): its registers
// and interrupts around a VirtioCore. Registers take accesses of any width and alignment; what
// lies outside of them reads 0 and ignores writes.
//
// MSI-X vectors: one a queue and one for configuration changes; the driver decides which is which.
class PciTransport : public DeviceModel, private InterruptSink {
 public:
  // At most kMaxPciQueues queues (pci_bar.h).
  explicit PciTransport(std::unique_ptr<VirtioDevice> device);

  v1::DeviceInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;
  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t index) override;
  void OnFunctionState(const FunctionState& state) override;
  bool HasWork() const override { return core_.HasWork(); }
  void DoWork() override { core_.DoWork(); }
  bool PrepareToSleep() override { return core_.PrepareToSleep(); }
  size_t Save(absl::Span<uint8_t> out) const override;
  absl::Status Restore(absl::Span<const uint8_t> state) override;
  // Keeps the function state.
  void Reset() override;
  void SetServing(bool serving) override { core_.SetServing(serving); }
  bool at_rest() const override { return core_.at_rest(); }
  bool dma_in_flight() const override { return core_.dma_in_flight(); }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override { core_.AppendMetrics(metrics); }

 private:
  uint64_t ReadBar(uint64_t offset, uint8_t size_bytes);
  void WriteBar(uint64_t offset, uint8_t size_bytes, uint64_t value);
  uint64_t ReadCommon(uint64_t offset, uint8_t size_bytes) const;
  void WriteCommon(uint64_t offset, uint8_t size_bytes, uint64_t value);
  uint64_t ReadField(uint32_t field) const;
  void WriteField(uint32_t field, uint64_t value);
  void WriteQueueField(uint32_t field, uint64_t value);
  uint64_t ReadIsr();
  template <typename T>
  void Set(T& place, uint64_t value);
  void ResetInterrupts();
  absl::Status RestoreTransport(const SavedDevice& device, absl::Span<const SavedQueue> queues);

  uint64_t ReadWindow(uint64_t offset, uint8_t size_bytes);
  void WriteWindow(uint64_t offset, uint8_t size_bytes, uint64_t value);

  void InterruptQueue(uint32_t queue) override;
  void InterruptConfig() override;
  void OnConfigChanged() override;
  int InterruptDescriptor(uint32_t queue) const override;
  void Interrupt(uint16_t vector, uint8_t isr_bit);
  void RaiseOwedInterrupts();
  void RaiseOwedConfigInterrupt();

  // The channel region of the last capability.
  uint8_t window_region() const;

  const VirtioIdentity identity_;
  const std::unique_ptr<VirtioDevice> device_;
  VirtioCore core_;
  DeviceServices* services_ = nullptr;
  ConfigWindow window_;

  FunctionState function_;
  uint32_t device_feature_select_ = 0;
  uint32_t driver_feature_select_ = 0;
  uint16_t queue_select_ = 0;
  uint16_t config_vector_;
  std::vector<uint16_t> queue_vectors_;
  uint8_t isr_ = 0;
  uint8_t config_generation_ = 0;
  bool config_interrupt_owed_ = false;
  // A predecessor may have died before it raised them.
  bool interrupts_owed_ = false;
  // Between Restore() and OnFunctionState(): the way to interrupt is not known yet.
  bool restoring_ = false;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_PCI_TRANSPORT_H_
