#ifndef BULKHEAD_VMM_KVM_KVM_VCPU_H_
#define BULKHEAD_VMM_KVM_KVM_VCPU_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "vmm/hypervisor/initial_cpu_state.h"
#include "vmm/hypervisor/vcpu.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

// A vCPU of KVM, in the state after reset: the first one is runnable, the others wait for INIT
// and SIPI. Threading: see Vcpu.
class KvmVcpu final : public Vcpu {
 public:
  // Creates it in the VM of `vm_fd`, which has its interrupt controllers, and does what firmware
  // would: sets CPUID, FPU, MTRR default type, local APIC pins. Errors: as KVM's ioctls.
  static absl::StatusOr<std::unique_ptr<KvmVcpu>> Create(const Kvm& kvm, int vm_fd, uint32_t index,
                                                         const CpuidTable& cpuid);

  // Call before the first Run(). Errors: InvalidArgument (`state` is not a legal processor state).
  absl::Status SetInitialState(const InitialCpuState& state);

  int fd() const { return fd_.get(); }

  VcpuExit Run() override;
  void RequestExit() override;
  void ClearExitRequest() override;
  void NotePause() override;
  std::string DescribeState() override;

 private:
  KvmVcpu(UniqueFd fd, MemoryMapping run) : fd_(std::move(fd)), run_mapping_(std::move(run)) {}

  kvm_run& run() { return *reinterpret_cast<kvm_run*>(run_mapping_.data()); }
  absl::Status SetCpuid(const CpuidTable& cpuid);
  absl::Status SetLocalApicPins();
  absl::Status SetFpu();
  void SetMsrs();

  UniqueFd fd_;
  MemoryMapping run_mapping_;  // shared with the kernel
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_VCPU_H_
