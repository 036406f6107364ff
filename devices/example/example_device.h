#ifndef BULKHEAD_DEVICES_EXAMPLE_EXAMPLE_DEVICE_H_
#define BULKHEAD_DEVICES_EXAMPLE_EXAMPLE_DEVICE_H_

#include <stddef.h>
#include <stdint.h>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/example/registers.h"
#include "devices/host/device_model.h"

namespace bulkhead::devices::example {

// The device that authors copy: registers, a doorbell, DMA, an interrupt, and state that outlives
// the process. registers.h says what it does. Single-threaded, as every DeviceModel.
class ExampleDevice : public DeviceModel {
 public:
  v1::DeviceInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;

  size_t Save(absl::Span<uint8_t> out) const override;
  absl::Status Restore(absl::Span<const uint8_t> bytes) override;
  void Reset() override;
  // A request ends within the call that starts it: nothing is ever in flight.
  void SetServing(bool) override {}
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t index) override;
  void OnFunctionState(const FunctionState& function) override;

 private:
  // All that the guest can see. Saved as it is: no pointers, no padding, and kStateVersion changes
  // with it.
  struct State {
    uint64_t address;
    uint64_t sum;
    uint32_t length;
    uint32_t status;  // Status
  };
  static constexpr uint32_t kStateVersion = 1;

  Status AddUp();
  bool has_result() const { return state_.status > kRequested; }
  void UpdateIntx();

  DeviceServices* services_ = nullptr;
  FunctionState function_;
  State state_ = {};
  uint64_t bytes_ = 0;  // added up; for people, not worth saving
};

}  // namespace bulkhead::devices::example

#endif  // BULKHEAD_DEVICES_EXAMPLE_EXAMPLE_DEVICE_H_
