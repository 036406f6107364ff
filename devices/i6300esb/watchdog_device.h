#ifndef BULKHEAD_DEVICES_I6300ESB_WATCHDOG_DEVICE_H_
#define BULKHEAD_DEVICES_I6300ESB_WATCHDOG_DEVICE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "devices/host/vm_link.h"
#include "devices/i6300esb/watchdog_registers.h"

namespace bulkhead::devices::i6300esb {

// A watchdog (WatchdogRegisters) that counts the time of the guest's clock, as the vmm tells it on
// the resource "vm": it stands still with the guest.
//
// At the end it asks the vmm for the time first, and reports that it has expired only if the answer
// comes soon. If not, or if this process finds the end when it is long past, the vmm or this
// process did not run, so perhaps the guest did not, either: the guest then has its whole time
// again.
//
// Saved are the registers, the deadline in the guest's time, and the number of the last report.
// Single-threaded, as every DeviceModel.
class WatchdogDevice : public DeviceModel {
 public:
  v1::DeviceInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;
  size_t Save(absl::Span<uint8_t> out) const override;
  absl::Status Restore(absl::Span<const uint8_t> bytes) override;
  void Reset() override;
  void SetServing(bool serving) override;
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;

  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t) override {}
  void OnFunctionState(const FunctionState&) override {}

 private:
  struct Saved;

  // Does what is due, and sets the timer for what comes next.
  void Update();
  void OnOver(int64_t now_ns);
  void SetTimer(int64_t due_ns);
  void OnTimer();
  void OnNews();

  DeviceServices* services_ = nullptr;
  std::unique_ptr<VmLink> link_;
  UniqueFd timer_;
  bool serving_ = true;
  WatchdogRegisters registers_;
  uint64_t question_ = 0;    // 0: none is open
  int64_t asked_at_ns_ = 0;  // by the steady clock

  uint64_t reloads_ = 0;
  uint64_t expirations_ = 0;
  uint64_t forgiven_ = 0;
};

}  // namespace bulkhead::devices::i6300esb

#endif  // BULKHEAD_DEVICES_I6300ESB_WATCHDOG_DEVICE_H_
