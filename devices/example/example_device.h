#ifndef BULKHEAD_DEVICES_EXAMPLE_EXAMPLE_DEVICE_H_
#define BULKHEAD_DEVICES_EXAMPLE_EXAMPLE_DEVICE_H_

#include <stdint.h>

#include <array>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/example/registers.h"
#include "devices/host/device_model.h"

namespace bulkhead::devices::example {

// The device that authors copy, and that tests and benchmarks drive: a PCI function with a
// little of everything. registers.h says what each register does.
// Single-threaded, as every DeviceModel.
class ExampleDevice : public DeviceModel {
 public:
  ExampleDevice();

  v1::PciInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;
  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t index) override;
  void OnFunctionState(const FunctionState& state) override;

 private:
  uint64_t ReadRegister(uint64_t offset, uint8_t size_bytes) const;
  void WriteRegister(uint64_t offset, uint8_t size_bytes, uint64_t value);
  // The bytes that an access to a region of plain bytes touches; empty if it is none.
  absl::Span<uint8_t> PlainBytes(uint8_t region, uint64_t offset, uint8_t size_bytes);

  void CheckOrder(uint32_t value);
  void RaiseInterrupts(uint32_t causes);
  void UpdateIntx();
  void RunDma(uint32_t command);
  DmaStatus CopyGuestMemory() const;

  DeviceServices* services_ = nullptr;
  FunctionState function_state_;

  std::array<uint8_t, kScratchSize> scratch_ = {};
  std::vector<uint8_t> memory_;                     // BAR 2
  std::array<uint8_t, 4> capability_scratch_ = {};  // bytes 4-7 of the first capability

  uint32_t order_next_ = 0;
  uint32_t order_violations_ = 0;
  uint32_t doorbell_count_ = 0;
  uint32_t doorbell_order_ = 0;
  uint32_t interrupt_status_ = 0;
  uint64_t dma_source_ = 0;
  uint64_t dma_destination_ = 0;
  uint32_t dma_length_ = 0;
  DmaStatus dma_status_ = kDmaIdle;
};

}  // namespace bulkhead::devices::example

#endif  // BULKHEAD_DEVICES_EXAMPLE_EXAMPLE_DEVICE_H_
