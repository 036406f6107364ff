#include "integration/testbed/agent/kept_vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "base/errno_status.h"

namespace bulkhead::testbed {

absl::StatusOr<KeptVm> KeepVm() {
  UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.ok()) return ErrnoToStatus(errno, "open /dev/kvm");
  KeptVm kept;
  kept.vm.reset(ioctl(kvm.get(), KVM_CREATE_VM, 0));
  if (!kept.vm.ok()) return ErrnoToStatus(errno, "KVM_CREATE_VM");
  if (ioctl(kept.vm.get(), KVM_CREATE_IRQCHIP, 0) != 0) {  // else there is no local APIC
    return ErrnoToStatus(errno, "KVM_CREATE_IRQCHIP");
  }
  kept.vcpu.reset(ioctl(kept.vm.get(), KVM_CREATE_VCPU, 0));
  if (!kept.vcpu.ok()) return ErrnoToStatus(errno, "KVM_CREATE_VCPU");
  return kept;
}

}  // namespace bulkhead::testbed
