#ifndef BULKHEAD_VMM_KVM_EXIT_DECODING_H_
#define BULKHEAD_VMM_KVM_EXIT_DECODING_H_

#include "vmm/hypervisor/vcpu_exit.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// The typed value of what KVM_RUN left in `run`, whose mapping goes on behind it. Pointers of
// the result lead into it. The kernel wrote it: it is trusted.
VcpuExit DecodeExit(kvm_run& run);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_EXIT_DECODING_H_
