#include "vmm/kvm/kvm_clock.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "vmm/kvm/kvm_abi.h"

namespace bulkhead::vmm {

void KvmClock::Stop() {
  if (stopped_.has_value()) return;
  kvm_clock_data clock{};
  if (ioctl(vm_fd_, KVM_GET_CLOCK, &clock) != 0) {
    LogWarning(absl::StrCat("cannot stop the guest's clock: KVM_GET_CLOCK: ", strerror(errno)));
    return;
  }
  stopped_ = Moment{.clock_ns = clock.clock, .host_tsc = __rdtsc()};
}

void KvmClock::Continue() {
  if (!stopped_.has_value()) return;
  const Moment stopped = *std::exchange(stopped_, std::nullopt);
  // Counters first: kvmclock's time is computed from them.
  MoveCounters(__rdtsc() - stopped.host_tsc);
  kvm_clock_data clock{};
  clock.clock = stopped.clock_ns;
  if (ioctl(vm_fd_, KVM_SET_CLOCK, &clock) != 0) {
    LogWarning(
        absl::StrCat("the guest's clock ran on during the stop: KVM_SET_CLOCK: ", strerror(errno)));
  }
}

void KvmClock::MoveCounters(uint64_t ticks_back) {
  for (const int vcpu : vcpu_fds_) {
    uint64_t offset = 0;
    kvm_device_attr attribute{};
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = reinterpret_cast<uintptr_t>(&offset);
    if (ioctl(vcpu, KVM_GET_DEVICE_ATTR, &attribute) != 0) {
      LogDebug("this KVM cannot stop time stamp counters");
      return;
    }
    offset -= ticks_back;
    if (ioctl(vcpu, KVM_SET_DEVICE_ATTR, &attribute) != 0) {
      LogWarning(
          absl::StrCat("a vCPU's time stamp counter ran on during the stop: KVM_VCPU_TSC_OFFSET: ",
                       strerror(errno)));
      return;
    }
  }
}

}  // namespace bulkhead::vmm
