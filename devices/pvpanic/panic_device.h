#ifndef BULKHEAD_DEVICES_PVPANIC_PANIC_DEVICE_H_
#define BULKHEAD_DEVICES_PVPANIC_PANIC_DEVICE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/host/device_model.h"
#include "devices/host/vm_link.h"

namespace bulkhead::devices::pvpanic {

// By which a guest reports its crash (registers.h): each event that it writes becomes a report to
// the vmm, the resource "vm". The register keeps nothing: what is saved is the number of the last
// report, so that each is made once. Single-threaded, as every DeviceModel.
class PanicDevice : public DeviceModel {
 public:
  v1::DeviceInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;
  size_t Save(absl::Span<uint8_t> out) const override;
  absl::Status Restore(absl::Span<const uint8_t> bytes) override;
  void Reset() override {}
  void SetServing(bool) override {}
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t) override {}
  void OnFunctionState(const FunctionState&) override {}

 private:
  DeviceServices* services_ = nullptr;
  std::unique_ptr<VmLink> link_;
  uint64_t reports_ = 0;
  uint64_t dropped_reports_ = 0;
};

}  // namespace bulkhead::devices::pvpanic

#endif  // BULKHEAD_DEVICES_PVPANIC_PANIC_DEVICE_H_
