#ifndef BULKHEAD_VMM_KVM_CPUID_DEPENDENCIES_H_
#define BULKHEAD_VMM_KVM_CPUID_DEPENDENCIES_H_

#include <vector>

#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// Clears each feature bit whose prerequisite is missing, for example everything that needs XSAVE
// without XSAVE, or AVX2 without AVX. No real processor has such a set, but a host can announce
// one: KVM inside an emulated machine, or a KVM whose XSAVE was turned off. Linux uses every
// feature whose bit is set: with AVX but no XSAVE, Debian's aesni_intel dies of an invalid opcode.
void DropFeaturesWithoutPrerequisite(std::vector<kvm_cpuid_entry2>& table);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_CPUID_DEPENDENCIES_H_
