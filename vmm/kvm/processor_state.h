#ifndef BULKHEAD_VMM_KVM_PROCESSOR_STATE_H_
#define BULKHEAD_VMM_KVM_PROCESSOR_STATE_H_

#include <string>

#include "vmm/hypervisor/initial_cpu_state.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// A processor's state between our terms and KVM's. Pure.

kvm_regs GeneralRegisters(const InitialCpuState& state);

// Puts what `state` sets into `registers`, which hold the state after reset; the rest (the APIC
// base, the LDT) stays.
void SetSpecialRegisters(const InitialCpuState& state, kvm_sregs& registers);

// The registers that tell where a guest is, on one line.
std::string Describe(const kvm_regs& general, const kvm_sregs& special);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_PROCESSOR_STATE_H_
