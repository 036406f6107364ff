#ifndef BULKHEAD_VMM_KVM_KVM_CLOCK_H_
#define BULKHEAD_VMM_KVM_KVM_CLOCK_H_

#include <stdint.h>

#include <optional>
#include <vector>

namespace bulkhead::vmm {

// Stops and continues the guest's time sources while no vCPU executes guest code: kvmclock
// (KVM_SET_CLOCK), and each vCPU's time stamp counter (KVM_VCPU_TSC_OFFSET, since Linux 5.16).
// Linux uses the counter instead of kvmclock if CPUID says that it is invariant. If KVM cannot move
// counters, they run on, and so does the clock of such a guest. Afterwards the guest's wall clock
// is behind by the time for which its clock was stopped.
//
// A timer that the guest has set by its counter fires as if the clock had not been stopped: early,
// after which Linux sets it again. Thread-compatible; on any thread.
class KvmClock {
 public:
  // The descriptors are borrowed and must outlive this.
  explicit KvmClock(int vm_fd) : vm_fd_(vm_fd) {}
  void AddVcpu(int vcpu_fd) { vcpu_fds_.push_back(vcpu_fd); }

  // Stop() of a stopped clock and Continue() of a running one do nothing. If the host refuses, they
  // log that, and the clock runs on.
  void Stop();
  void Continue();

 private:
  struct Moment {
    uint64_t clock_ns = 0;  // kvmclock
    uint64_t host_tsc = 0;
  };

  void MoveCounters(uint64_t ticks_back);

  const int vm_fd_;
  std::vector<int> vcpu_fds_;
  std::optional<Moment> stopped_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_KVM_KVM_CLOCK_H_
