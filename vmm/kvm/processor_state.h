#ifndef BULKHEAD_VMM_KVM_PROCESSOR_STATE_H_
#define BULKHEAD_VMM_KVM_PROCESSOR_STATE_H_

#include <string>

#include "vmm/hypervisor/initial_cpu_state.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// Converts a processor's state to KVM's structures. Pure.

kvm_regs GeneralRegisters(const InitialCpuState& state);

// Writes the registers of `state` to `registers`, which hold the state after reset. The others (the
// APIC base, the LDT) keep their values.
void SetSpecialRegisters(const InitialCpuState& state, kvm_sregs& registers);

// Instruction pointer and other registers, for a crash report, on one line.
std::string Describe(const kvm_regs& general, const kvm_sregs& special);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_PROCESSOR_STATE_H_
