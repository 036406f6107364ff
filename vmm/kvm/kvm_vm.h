#ifndef BULKHEAD_VMM_KVM_KVM_VM_H_
#define BULKHEAD_VMM_KVM_KVM_VM_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "vmm/hypervisor/event_routing.h"
#include "vmm/hypervisor/initial_cpu_state.h"
#include "vmm/hypervisor/vcpu.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_clock.h"
#include "vmm/kvm/kvm_statistics.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {

// One KVM virtual machine: its memory, its interrupt controllers (local APICs and I/O APIC, in
// the kernel) and its vCPUs.
//
// It has no PIT: Linux does not look for one if it knows the rate of the TSC, and uses kvmclock and
// the local APIC's TSC-deadline timer. KVM's PIT would also leave its speaker port to the vmm.
//
// Create it, add memory, create the vCPUs, in this order and on one thread; event_routing() is
// thread-safe.
class KvmVm {
 public:
  // Errors: as KVM's ioctls. `kvm` must outlive the result.
  static absl::StatusOr<std::unique_ptr<KvmVm>> Create(const Kvm& kvm);

  // Gives the guest its RAM, which must outlive the VM. Call once. Errors: as KVM's ioctl.
  absl::Status AddMemory(const GuestRam& ram);

  // Creates all vCPUs of the VM: the first begins at `first`, the others wait for INIT and SIPI.
  // Call once. Errors: InvalidArgument (`count` is 0 or more than KVM supports, or `first` is not a
  // legal processor state), or as KVM's ioctls.
  absl::StatusOr<std::vector<std::unique_ptr<Vcpu>>> CreateVcpus(uint32_t count,
                                                                 const InitialCpuState& first);

  EventRouting& event_routing() { return *event_routing_; }
  // Valid while the vCPUs that CreateVcpus() returned exist.
  KvmClock& clock() { return clock_; }
  // Of each vCPU; valid as clock().
  const std::vector<KvmStatistics>& statistics() const { return statistics_; }

 private:
  KvmVm(const Kvm& kvm, UniqueFd fd);

  const Kvm& kvm_;
  UniqueFd fd_;
  std::unique_ptr<EventRouting> event_routing_;
  KvmClock clock_;
  std::vector<KvmStatistics> statistics_;  // closed before `fd_`
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_VM_H_
