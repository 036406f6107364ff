#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/errno_status.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {
namespace {

struct Capability {
  int number;
  const char* name;
};

// The capabilities that the vmm needs. Every x86-64 KVM since Linux 4.12 has all of them.
constexpr Capability kNeeded[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IRQFD_RESAMPLE, "KVM_CAP_IRQFD_RESAMPLE"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

}  // namespace

absl::StatusOr<Kvm> Kvm::Open(const std::string& path) {
  Kvm kvm;
  kvm.fd_ = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm.fd_.ok()) {
    const int error = errno;
    const char* advice = error == ENOENT   ? " (is a kvm module loaded?)"
                         : error == EACCES ? " (needs root or membership in the group kvm)"
                                           : "";
    const absl::Status status = ErrnoToStatus(error, absl::StrCat("open ", path));
    return absl::Status(status.code(), absl::StrCat(status.message(), advice));
  }
  const int fd = kvm.fd_.get();
  const int version = ioctl(fd, KVM_GET_API_VERSION, 0);
  if (version < 0) return ErrnoToStatus(errno, absl::StrCat(path, ": KVM_GET_API_VERSION"));
  if (version != KVM_API_VERSION) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": KVM API version ", version, ", need ", KVM_API_VERSION));
  }
  std::vector<const char*> missing;
  for (const Capability& capability : kNeeded) {
    if (ioctl(fd, KVM_CHECK_EXTENSION, capability.number) <= 0) missing.push_back(capability.name);
  }
  if (!missing.empty()) {
    return absl::UnimplementedError(absl::StrCat(path, " lacks ", absl::StrJoin(missing, ", ")));
  }
  const auto value_of = [fd](int capability) {
    const int value = ioctl(fd, KVM_CHECK_EXTENSION, capability);
    return value < 0 ? 0u : static_cast<uint32_t>(value);
  };
  kvm.max_vcpus_ = value_of(KVM_CAP_MAX_VCPUS);
  kvm.max_gsi_routes_ = value_of(KVM_CAP_IRQ_ROUTING);
  kvm.has_tsc_deadline_timer_ = value_of(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  const int run_size = ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_size < static_cast<int>(sizeof(kvm_run))) {
    return ErrnoToStatus(run_size < 0 ? errno : EINVAL, "KVM_GET_VCPU_MMAP_SIZE");
  }
  kvm.run_size_bytes_ = static_cast<size_t>(run_size);
  return kvm;
}

}  // namespace bulkhead::vmm
