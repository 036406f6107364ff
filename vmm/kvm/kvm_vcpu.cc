#include "vmm/kvm/kvm_vcpu.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "vmm/kvm/exit_decoding.h"
#include "vmm/kvm/flexible_list.h"
#include "vmm/kvm/processor_state.h"

namespace bulkhead::vmm {
namespace {

using CpuidList = FlexibleList<kvm_cpuid2, kvm_cpuid_entry2>;
using MsrList = FlexibleList<kvm_msrs, kvm_msr_entry>;

constexpr uint32_t kMsrMiscEnable = 0x1a0;
constexpr uint64_t kMiscEnableFastStrings = 1;
constexpr uint32_t kMsrMtrrDefType = 0x2ff;
constexpr uint64_t kMtrrEnabledWriteBack = 1 << 11 | 6;

// Local vector table of the APIC (Intel SDM volume 3, 11.5.1).
constexpr size_t kApicLvtLint0 = 0x350;
constexpr size_t kApicLvtLint1 = 0x360;
constexpr uint32_t kApicDeliverNmi = 4 << 8;
constexpr uint32_t kApicDeliverExtInt = 7 << 8;

std::atomic_ref<uint8_t> ImmediateExit(kvm_run& run) {
  return std::atomic_ref<uint8_t>(run.immediate_exit);
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvmVcpu>> KvmVcpu::Create(const Kvm& kvm, int vm_fd, uint32_t index,
                                                         const CpuidTable& cpuid) {
  UniqueFd fd(ioctl(vm_fd, KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
  if (!fd.ok()) return ErrnoToStatus(errno, "KVM_CREATE_VCPU");
  ASSIGN_OR_RETURN(MemoryMapping run, MemoryMapping::Map(fd.get(), 0, kvm.run_size_bytes(),
                                                         MemoryMapping::Protection::kReadWrite));
  std::unique_ptr<KvmVcpu> vcpu(new KvmVcpu(std::move(fd), std::move(run)));
  // CPUID first: it decides which MSRs the vCPU has.
  RETURN_IF_ERROR(vcpu->SetCpuid(cpuid));
  RETURN_IF_ERROR(vcpu->SetLocalApicPins());
  RETURN_IF_ERROR(vcpu->SetFpu());
  vcpu->SetMsrs();
  return vcpu;
}

absl::Status KvmVcpu::SetCpuid(const CpuidTable& cpuid) {
  CpuidList list(cpuid);
  list.header()->nent = static_cast<uint32_t>(cpuid.size());
  if (ioctl(fd_.get(), KVM_SET_CPUID2, list.header()) != 0) {
    return ErrnoToStatus(errno, "KVM_SET_CPUID2");
  }
  return absl::OkStatus();
}

absl::Status KvmVcpu::SetLocalApicPins() {
  kvm_lapic_state apic;
  if (ioctl(fd_.get(), KVM_GET_LAPIC, &apic) != 0) return ErrnoToStatus(errno, "KVM_GET_LAPIC");
  memcpy(apic.regs + kApicLvtLint0, &kApicDeliverExtInt, sizeof(kApicDeliverExtInt));
  memcpy(apic.regs + kApicLvtLint1, &kApicDeliverNmi, sizeof(kApicDeliverNmi));
  if (ioctl(fd_.get(), KVM_SET_LAPIC, &apic) != 0) return ErrnoToStatus(errno, "KVM_SET_LAPIC");
  return absl::OkStatus();
}

absl::Status KvmVcpu::SetFpu() {
  kvm_fpu fpu{};
  fpu.fcw = 0x37f;     // all exceptions masked, extended precision
  fpu.mxcsr = 0x1f80;  // all exceptions masked
  if (ioctl(fd_.get(), KVM_SET_FPU, &fpu) != 0) return ErrnoToStatus(errno, "KVM_SET_FPU");
  return absl::OkStatus();
}

// The other MSRs are zero after reset, as a kernel expects. These two are for speed: memory is
// write-back cached without MTRR set-up, and string instructions are fast. Software back ends of
// KVM lack them, so a refusal is only logged.
void KvmVcpu::SetMsrs() {
  for (const auto& [msr, bits] : {std::pair(kMsrMtrrDefType, kMtrrEnabledWriteBack),
                                  std::pair(kMsrMiscEnable, kMiscEnableFastStrings)}) {
    MsrList list(1);
    list.header()->nmsrs = 1;
    list.entries()[0].index = msr;
    const bool read = ioctl(fd_.get(), KVM_GET_MSRS, list.header()) == 1;
    list.entries()[0].data |= bits;
    if (!read || ioctl(fd_.get(), KVM_SET_MSRS, list.header()) != 1) {
      LogDebug(absl::StrFormat("this KVM does not allow setting bits 0x%x of MSR 0x%x", bits, msr));
    }
  }
}

absl::Status KvmVcpu::SetInitialState(const InitialCpuState& state) {
  kvm_sregs special;
  if (ioctl(fd_.get(), KVM_GET_SREGS, &special) != 0) return ErrnoToStatus(errno, "KVM_GET_SREGS");
  SetSpecialRegisters(state, special);
  if (ioctl(fd_.get(), KVM_SET_SREGS, &special) != 0) return ErrnoToStatus(errno, "KVM_SET_SREGS");
  const kvm_regs general = GeneralRegisters(state);
  if (ioctl(fd_.get(), KVM_SET_REGS, &general) != 0) return ErrnoToStatus(errno, "KVM_SET_REGS");
  return absl::OkStatus();
}

VcpuExit KvmVcpu::Run() {
  while (true) {
    if (ioctl(fd_.get(), KVM_RUN, 0) == 0) return DecodeExit(run());
    switch (errno) {
      case EINTR:
        return InterruptedExit{};
      case EAGAIN:
        continue;  // the vCPU slept and was woken, for example by INIT or SIPI
      default:
        return RunFailedExit{errno};
    }
  }
}

void KvmVcpu::RequestExit() {
  // seq_cst: see VcpuThread, which owns the protocol.
  ImmediateExit(run()).store(1, std::memory_order_seq_cst);
}

void KvmVcpu::ClearExitRequest() { ImmediateExit(run()).store(0, std::memory_order_seq_cst); }

void KvmVcpu::NotePause() {
  // EINVAL: the guest does not use kvmclock, so it has no watchdog that reads this.
  (void)ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
}

std::string KvmVcpu::DescribeState() {
  kvm_regs general;
  kvm_sregs special;
  if (ioctl(fd_.get(), KVM_GET_REGS, &general) != 0 ||
      ioctl(fd_.get(), KVM_GET_SREGS, &special) != 0) {
    return absl::StrCat("cannot read the registers: ", strerror(errno));
  }
  return Describe(general, special);
}

}  // namespace bulkhead::vmm
