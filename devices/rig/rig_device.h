#ifndef BULKHEAD_DEVICES_RIG_RIG_H_
#define BULKHEAD_DEVICES_RIG_RIG_H_

#include <stddef.h>
#include <stdint.h>

#include <array>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/host/device_model.h"
#include "devices/rig/misbehaver.h"
#include "devices/rig/registers.h"

namespace bulkhead::devices::rig {

// The test rig: a PCI function with a little of everything, which tests and benchmarks drive.
// registers.h says what each register does. Single-threaded, as every DeviceModel.
class RigDevice : public DeviceModel {
 public:
  // It uses the first kMsixVectors of `msix_vectors`.
  explicit RigDevice(uint32_t msix_vectors = kMsixVectors) : msix_vectors_(msix_vectors) {}

  v1::DeviceInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;

  size_t Save(absl::Span<uint8_t> out) const override;
  absl::Status Restore(absl::Span<const uint8_t> state) override;
  void Reset() override;
  // Every access is done with when it returns: there is never anything in flight.
  void SetServing(bool) override {}
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t index) override;
  void OnFunctionState(const FunctionState& state) override;

 private:
  // All that the guest can see, beside BAR 2, which is durable memory. Saved as it is: no
  // pointers, no padding, and kStateVersion changes with it.
  struct State {
    std::array<uint8_t, kScratchSize> scratch;
    uint64_t sum;
    uint64_t dma_source;
    uint64_t dma_destination;
    uint32_t dma_length;
    uint32_t dma_status;  // DmaStatus
    uint32_t order_next;
    uint32_t order_violations;
    uint32_t doorbell_count;
    uint32_t doorbell_order;
    uint32_t interrupt_status;
    uint32_t taken;
    std::array<uint8_t, 4> capability_scratch;  // bytes 4-7 of the first capability
    uint32_t reserved;
  };
  static constexpr uint32_t kStateVersion = 1;
  static_assert(sizeof(State) == kScratchSize + 3 * 8 + 10 * 4, "no padding");

  uint64_t ReadRegister(uint64_t offset, uint8_t size_bytes);
  void WriteRegister(uint64_t offset, uint8_t size_bytes, uint64_t value);
  // The bytes that an access to a region of plain bytes touches; empty if it is none.
  absl::Span<uint8_t> PlainBytes(uint8_t region, uint64_t offset, uint8_t size_bytes);

  void CheckOrder(uint32_t value);
  void RaiseInterrupts(uint32_t causes);
  void SendVectors(uint32_t causes);
  void UpdateIntx();
  void RunDma(uint32_t command);
  DmaStatus CopyGuestMemory();

  DeviceServices* services_ = nullptr;
  FunctionState function_state_;
  State state_ = {};
  absl::Span<uint8_t> memory_;  // BAR 2
  uint64_t dma_bytes_ = 0;      // for people; not worth saving
  Misbehaver misbehaver_;
  const uint32_t msix_vectors_;
};

}  // namespace bulkhead::devices::rig

#endif  // BULKHEAD_DEVICES_RIG_RIG_H_
