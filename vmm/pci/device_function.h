#ifndef BULKHEAD_VMM_PCI_DEVICE_FUNCTION_H_
#define BULKHEAD_VMM_PCI_DEVICE_FUNCTION_H_

#include <stdint.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/guest_memory.h"
#include "vmm/device/device_access.h"
#include "vmm/device/device_description.h"
#include "vmm/device/device_region.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/pci/bar_decoder.h"
#include "vmm/pci/config_registers.h"
#include "vmm/pci/config_space.h"
#include "vmm/pci/forwarded_capabilities.h"
#include "vmm/pci/function_spec.h"
#include "vmm/pci/intx.h"
#include "vmm/pci/msix.h"
#include "vmm/pci/warn_once.h"

namespace bulkhead::vmm {

// The PCI function of a device in another process: a type-0 header ([PCI] 6.1), BARs, MSI-X and
// INTx, all answered here. The device gets the accesses to its BARs and to the bodies of its
// forwarded capabilities, its function state whenever bus mastering, MSI-X or INTx is switched, and
// a reset when the guest resets the function (Advanced Features capability).
//
// Thread-safe. No call to the device is made under a lock: a device that hangs delays only threads
// that wait for its own answer, and these can be paused.
class DeviceFunction final : public ConfigSpace {
 public:
  struct BarState {
    uint8_t index = 0;
    uint64_t size_bytes = 0;
    bool is_64bit = false;
    GuestAddress address = 0;  // as in the register
    bool decoded = false;      // accesses there reach the device
  };

  // The function's collaborators. All borrowed; all must outlive it.
  struct Surroundings {
    DeviceAccess& device;
    EventRouting& routing;
    BarDecoder& decoder;
  };

  // `slot` decides the INTx line. Errors: those of EventRouting.
  static absl::StatusOr<std::unique_ptr<DeviceFunction>> Create(const FunctionSpec& spec,
                                                                uint32_t slot,
                                                                const Surroundings& around);
  // No access may be in flight.
  ~DeviceFunction() override;

  uint32_t ReadConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes) override;
  void WriteConfig(Waiter waiter, uint16_t offset, uint8_t size_bytes, uint32_t value) override;

  const std::string& name() const { return name_; }

  // Gives a BAR its first address, as firmware does, before the vCPUs run.
  void AssignBar(uint8_t index, GuestAddress address);
  std::vector<BarState> bars() const;

  // The function state, for a device process that starts.
  FunctionState state() const;

 private:
  struct Bar {
    uint8_t index = 0;
    uint64_t size_bytes = 0;
    bool is_64bit = false;
    BarDecoder::BarId id = 0;
  };

  DeviceFunction(const FunctionSpec& spec, const FunctionLayout& layout, uint32_t slot,
                 const Surroundings& around, std::unique_ptr<Msix> msix);

  // INTx is usable from the start: MSI-X and INTx Disable are off.
  absl::Status EnableIntx();
  void SetUpHeader(const FunctionSpec& spec, uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetUpCapabilities(const FunctionSpec& spec, const FunctionLayout& layout)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddBar(const DeviceDescription::Bar& bar, IoHandler* handler, const FunctionSpec& spec)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  uint16_t command() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  GuestAddress BarAddress(const Bar& bar) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  FunctionState StateLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sets decoding and interrupts according to the registers.
  void Apply() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The guest's function-level reset: resets this function's registers, then the device.
  void ResetFunction(Waiter waiter);
  // Sends the device its function state. Only after Apply(): the device may signal the line as soon
  // as it gets the state that enables it.
  void SendState(Waiter waiter);

  const std::string name_;
  DeviceAccess& device_;
  BarDecoder& decoder_;
  const uint16_t msix_capability_;  // offset; 0: none
  const uint16_t advanced_features_;
  const ForwardedCapabilities forwarded_;
  const std::unique_ptr<Msix> msix_;                    // nullptr: none
  std::vector<std::unique_ptr<DeviceRegion>> regions_;  // like `bars_`, constant once constructed
  std::vector<Bar> bars_;

  // Order of locks: mutex_, then those of Msix and BarDecoder.
  mutable absl::Mutex mutex_;
  ConfigRegisters registers_ ABSL_GUARDED_BY(mutex_);
  ConfigRegisters reset_registers_ ABSL_GUARDED_BY(mutex_);  // their values after a reset
  std::optional<Intx> intx_ ABSL_GUARDED_BY(mutex_);
  WarnOnce warn_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_DEVICE_FUNCTION_H_
