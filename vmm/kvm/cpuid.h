#ifndef BULKHEAD_VMM_KVM_CPUID_H_
#define BULKHEAD_VMM_KVM_CPUID_H_

#include <stdint.h>

#include <vector>

#include "absl/status/statusor.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

using CpuidTable = std::vector<kvm_cpuid_entry2>;

// The CPUID leaves that KVM and the host's processor support. Takes about a millisecond: call it
// once.
absl::StatusOr<CpuidTable> SupportedCpuid(const Kvm& kvm);

// Identifies the vCPU that a table is for. Every vCPU is a core with one thread; all vCPUs are
// in one package. APIC ids are vCPU indices.
struct CpuidPlace {
  uint32_t vcpu_index = 0;
  uint32_t vcpu_count = 1;
  bool tsc_deadline_timer = false;
};

// Turns `supported` into the table of the vCPU at `place`: its APIC id and the topology, as Intel
// (leaves 1, 4, 0xB) and AMD (0x80000008, 0x8000001D, 0x8000001E) report them, the hypervisor
// bit and the TSC-deadline timer. Features without their prerequisite are dropped
// (cpuid_dependencies.h). Everything else is passed through.
CpuidTable CpuidFor(const CpuidTable& supported, const CpuidPlace& place);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_CPUID_H_
