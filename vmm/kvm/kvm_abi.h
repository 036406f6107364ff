#ifndef BULKHEAD_VMM_KVM_KVM_ABI_H_
#define BULKHEAD_VMM_KVM_KVM_ABI_H_

// The kernel's interface. Only vmm/kvm uses it: nothing else includes <linux/kvm.h>.
//
// In C++, Debian 12's <linux/stddef.h> puts an empty struct, of size 1, before a flexible
// array. That makes sizeof(kvm_cpuid2) 12 instead of 8, and as the size is part of the ioctl's
// number, KVM_SET_CPUID2, KVM_GET_MSRS and others become unknown ioctls. The kernel's C has
// no such byte, so the array is declared here as the kernel sees it.
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]
#include <linux/kvm.h>

namespace bulkhead::vmm {

static_assert(KVM_API_VERSION == 12);

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_cpuid_entry2) == 40);
static_assert(sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_entry) == 16);
static_assert(sizeof(kvm_irq_routing) == 8 && sizeof(kvm_irq_routing_entry) == 48);
static_assert(sizeof(kvm_userspace_memory_region) == 32);
static_assert(sizeof(kvm_irqfd) == 32);
static_assert(sizeof(kvm_ioeventfd) == 64);
static_assert(sizeof(kvm_regs) == 144);
static_assert(sizeof(kvm_sregs) == 312);
static_assert(sizeof(kvm_fpu) == 416);
static_assert(sizeof(kvm_lapic_state) == 1024);
static_assert(sizeof(kvm_stats_header) == 24 && sizeof(kvm_stats_desc) == 16);

static_assert(KVM_GET_SUPPORTED_CPUID == 0xc008ae05);
static_assert(KVM_SET_CPUID2 == 0x4008ae90);
static_assert(KVM_GET_MSRS == 0xc008ae88 && KVM_SET_MSRS == 0x4008ae89);
static_assert(KVM_SET_GSI_ROUTING == 0x4008ae6a);
static_assert(KVM_GET_STATS_FD == 0xaece);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_ABI_H_
