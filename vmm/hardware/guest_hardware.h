#ifndef BULKHEAD_VMM_HARDWARE_GUEST_HARDWARE_H_
#define BULKHEAD_VMM_HARDWARE_GUEST_HARDWARE_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/vm_control.pb.h"
#include "vmm/acpi/acpi_registers.h"
#include "vmm/acpi/sci_line.h"
#include "vmm/boot/boot.h"
#include "vmm/device/device_region.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/pci/device_function.h"
#include "vmm/pci/pci_host.h"
#include "vmm/remote_device/remote_device.h"
#include "vmm/vcpu/vcpu_threads.h"
#include "vmm/vm/vm_end.h"
#include "vmm/vm/vm_metrics.h"

namespace bulkhead::vmm {

// The hardware of one boot, from power-on to reset: KVM's VM, the buses, PCI, the ACPI registers
// and the vCPUs. A reboot destroys it and creates another one for the same RAM and devices. So one
// boot leaves no state for the next, and none of these parts needs code for a reset.
//
// Call Create(), Plug(), Load(), then vcpus().Start(), on one thread. Describe() and
// PressPowerButton() are thread-safe after Plug(). The destructor stops the vCPUs.
class GuestHardware {
 public:
  // `kvm` and `ram` must outlive the hardware. Errors: as KVM's.
  static absl::StatusOr<std::unique_ptr<GuestHardware>> Create(const Kvm& kvm, const GuestRam& ram);

  // Connects the devices, which must outlive the hardware, to the guest's buses; the guest then
  // gets their interrupts. `pci_slots` has one entry for each device, 0 for any. Errors:
  // InvalidArgument (the devices do not fit together; names one), ResourceExhausted (a temporary
  // shortage of the host), others of the host.
  absl::Status Plug(absl::Span<RemoteDevice* const> devices, absl::Span<const uint32_t> pci_slots);

  // Gives the guest its RAM, which must be all zeroes, writes ACPI tables and `sources` to it, and
  // creates the vCPUs.
  // `confine_vcpu`: see VcpuThreads. Errors: InvalidArgument (`sources`; more vCPUs than KVM
  // supports), others of the host.
  absl::Status Load(const BootSources& sources, uint32_t vcpus, WaitControl waits,
                    const std::function<absl::Status()>& confine_vcpu);

  VcpuThreads& vcpus() { return *vcpus_; }
  // The guest's own end of this boot: power-off, reset, triple fault, ...
  const VmEndLatch& end() const { return *end_; }

  // As AcpiRegisters.
  bool PressPowerButton() { return acpi_registers_->PressPowerButton(); }
  bool has_kept_press() const { return acpi_registers_->has_kept_press(); }
  void Wake() { acpi_registers_->Wake(); }

  // Adds the PCI function of a device, with its BARs as the guest has placed them. Adds nothing for
  // a device that is not on the PCI bus.
  void Describe(const RemoteDevice& device, v1::Device& description) const;

  // Stops and continues the guest's clock. Call them while no vCPU executes guest code.
  void StopClock();
  void ContinueClock();

  // The figures of each vCPU. Thread-safe after Load().
  std::vector<VcpuFigures> DescribeVcpus() const;

  // Guest accesses to unused addresses.
  uint64_t unclaimed_accesses() const {
    return memory_bus_.unclaimed_accesses() + port_bus_.unclaimed_accesses();
  }

 private:
  struct PluggedFunction {
    const RemoteDevice* device;
    uint32_t slot;
    const DeviceFunction* function;
  };

  GuestHardware(const Kvm& kvm, const GuestRam& ram) : kvm_(kvm), ram_(ram) {}

  absl::Status PlugPlatformDevice(RemoteDevice& device);
  absl::Status BindPlatformDoorbells(RemoteDevice& device);
  GuestAddress HighWindowStart() const;

  const Kvm& kvm_;
  const GuestRam& ram_;
  // In this order, so that each part outlives its users.
  std::unique_ptr<VmEndLatch> end_;
  std::unique_ptr<KvmVm> vm_;
  AddressSpace memory_bus_;
  AddressSpace port_bus_;
  std::unique_ptr<SciLine> sci_;
  std::unique_ptr<AcpiRegisters> acpi_registers_;
  std::vector<std::unique_ptr<DeviceRegion>> port_regions_;
  std::unique_ptr<PciHost> pci_;
  std::vector<const RemoteDevice*> platform_devices_;
  std::vector<PluggedFunction> functions_;
  std::unique_ptr<VcpuThreads> vcpus_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_HARDWARE_GUEST_HARDWARE_H_
