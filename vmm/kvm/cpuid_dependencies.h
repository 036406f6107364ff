#ifndef BULKHEAD_VMM_KVM_CPUID_DEPENDENCIES_H_
#define BULKHEAD_VMM_KVM_CPUID_DEPENDENCIES_H_

#include <vector>

#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// Clears the feature bits whose prerequisite is missing, as no real processor has them: everything
// that needs XSAVE where there is none, AVX2 without AVX, and so on. Linux uses a feature whose bit
// it sees: with AVX announced but no XSAVE, Debian's aesni_intel dies of an invalid opcode. Hosts
// can announce such a set: KVM inside an emulated machine, or a KVM whose XSAVE was turned off.
void DropFeaturesWithoutPrerequisite(std::vector<kvm_cpuid_entry2>& table);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_CPUID_DEPENDENCIES_H_
