#ifndef BULKHEAD_VMM_MACHINE_MACHINE_H_
#define BULKHEAD_VMM_MACHINE_MACHINE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/config/vm_spec.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/machine/port_region.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/pci/pci_host.h"
#include "vmm/remote_device/process_monitor.h"
#include "vmm/remote_device/remote_device.h"
#include "vmm/vcpu/acpi_registers.h"
#include "vmm/vcpu/vcpu_threads.h"
#include "vmm/vcpu/vm_end.h"

namespace bulkhead::vmm {

// One virtual machine: guest RAM, KVM, the bus, PCI, and its device processes, put together from
// a configuration. Its parts know nothing of each other but interfaces; the wiring is here.
//
// Create(), Start(), then Stop() once, on one thread; RequestEnd(), ended() and end_fd() on any.
class Machine {
 public:
  // Loads the kernel and starts the device processes; no guest code runs yet. Errors:
  // InvalidArgument (the configuration: the kernel does not load, the devices do not fit),
  // others (host, KVM, a device that does not start). One message for the operator.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(VmSpec spec);
  // Ends what still runs.
  ~Machine();

  // Lets the vCPUs run. Errors: as pthread_create(3).
  absl::Status Start();

  // The VM ends when the guest says so, or by this.
  void RequestEnd(VmEnd end) { end_->Report(std::move(end)); }
  bool ended() const { return end_->reported(); }
  int end_fd() const { return end_->fd(); }  // readable once the VM has ended

  // Stops vCPUs and devices, within bounds, and tells why the VM ended: because nobody said
  // anything, if ended() is false.
  VmEnd Stop();

 private:
  explicit Machine(GuestRam ram) : ram_(std::move(ram)) {}

  absl::Status OpenKvm();
  // `wanted_slots` has one entry a device, 0 for any.
  absl::Status PlugDevices(const std::vector<uint32_t>& wanted_slots);
  absl::Status PlugPlatformDevice(RemoteDevice& device);
  absl::Status BindPlatformDoorbells(RemoteDevice& device);
  absl::Status Boot(VmSpec& spec);
  GuestAddress HighWindowStart() const;

  // In this order, so that what is used outlives its users.
  GuestRam ram_;
  std::unique_ptr<VmEndLatch> end_;
  std::unique_ptr<Kvm> kvm_;
  std::unique_ptr<KvmVm> vm_;
  AddressSpace memory_bus_;
  AddressSpace port_bus_;
  std::unique_ptr<AcpiRegisters> acpi_registers_;
  std::unique_ptr<ProcessMonitor> monitor_;
  std::vector<std::unique_ptr<RemoteDevice>> devices_;
  std::vector<std::unique_ptr<PortRegion>> port_regions_;
  std::unique_ptr<PciHost> pci_;
  std::unique_ptr<VcpuThreads> vcpus_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_MACHINE_H_
