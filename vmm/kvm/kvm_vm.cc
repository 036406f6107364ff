#include "vmm/kvm/kvm_vm.h"

#include <errno.h>
#include <sys/ioctl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/kvm/kvm_event_routing.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

KvmVm::KvmVm(const Kvm& kvm, UniqueFd fd)
    : kvm_(kvm),
      fd_(std::move(fd)),
      event_routing_(std::make_unique<KvmEventRouting>(fd_.get(), kvm.max_gsi_routes())),
      clock_(fd_.get()) {}

absl::StatusOr<std::unique_ptr<KvmVm>> KvmVm::Create(const Kvm& kvm) {
  constexpr unsigned long kDefaultMachineType = 0;
  int fd;
  do {
    fd = ioctl(kvm.fd(), KVM_CREATE_VM, kDefaultMachineType);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoToStatus(errno, "KVM_CREATE_VM");
  std::unique_ptr<KvmVm> vm(new KvmVm(kvm, UniqueFd(fd)));
  // VT-x without "unrestricted guest" needs these pages to run real mode.
  if (ioctl(fd, KVM_SET_TSS_ADDR, static_cast<unsigned long>(layout::kTss)) != 0) {
    return ErrnoToStatus(errno, "KVM_SET_TSS_ADDR");
  }
  const uint64_t identity_map = layout::kIdentityMap;
  if (ioctl(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) != 0) {
    return ErrnoToStatus(errno, "KVM_SET_IDENTITY_MAP_ADDR");
  }
  // Before any vCPU: a vCPU created later gets its local APIC from this.
  if (ioctl(fd, KVM_CREATE_IRQCHIP, 0) != 0) return ErrnoToStatus(errno, "KVM_CREATE_IRQCHIP");
  return vm;
}

absl::Status KvmVm::AddMemory(const GuestRam& ram) {
  uint32_t slot = 0;
  for (const GuestRam::Block& block : ram.blocks()) {
    kvm_userspace_memory_region region{};
    region.slot = slot++;
    region.guest_phys_addr = block.start;
    region.memory_size = block.size_bytes;
    region.userspace_addr = reinterpret_cast<uintptr_t>(block.host);
    if (ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) {
      return ErrnoToStatus(errno, "KVM_SET_USER_MEMORY_REGION");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::unique_ptr<Vcpu>>> KvmVm::CreateVcpus(
    uint32_t count, const InitialCpuState& first) {
  if (count == 0 || count > kvm_.max_vcpus()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpus: ", count, " is out of range (this KVM: 1 to ", kvm_.max_vcpus(), ")"));
  }
  ASSIGN_OR_RETURN(const CpuidTable supported, SupportedCpuid(kvm_));
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (uint32_t index = 0; index < count; ++index) {
    const CpuidTable cpuid =
        CpuidFor(supported, {.vcpu_index = index,
                             .vcpu_count = count,
                             .tsc_deadline_timer = kvm_.has_tsc_deadline_timer()});
    ASSIGN_OR_RETURN(std::unique_ptr<KvmVcpu> vcpu, KvmVcpu::Create(kvm_, fd_.get(), index, cpuid));
    if (index == 0) RETURN_IF_ERROR(vcpu->SetInitialState(first));
    clock_.AddVcpu(vcpu->fd());
    statistics_.push_back(KvmStatistics::OfVcpu(vcpu->fd()));
    vcpus.push_back(std::move(vcpu));
  }
  return vcpus;
}

}  // namespace bulkhead::vmm
