#ifndef BULKHEAD_VMM_KVM_EXIT_DECODING_H_
#define BULKHEAD_VMM_KVM_EXIT_DECODING_H_

#include "vmm/hypervisor/vcpu_exit.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// Decodes the exit that KVM_RUN wrote to `run`. `run` must be mapped together with the pages that
// follow it: pointers of the result point into that mapping. The kernel wrote it: it is trusted.
VcpuExit DecodeExit(kvm_run& run);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_EXIT_DECODING_H_
