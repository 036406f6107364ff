#ifndef BULKHEAD_VMM_HYPERVISOR_VCPU_H_
#define BULKHEAD_VMM_HYPERVISOR_VCPU_H_

#include <string>

#include "vmm/hypervisor/vcpu_exit.h"

namespace bulkhead::vmm {

// A virtual CPU. RequestInterrupt() may be called from any thread, the rest belongs to
// one. Implemented over KVM; tests have a fake.
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  // Runs guest code until something needs the vmm. A data pointer of the previous exit is
  // consumed first: what was read is given to the guest.
  virtual VcpuExit Run() = 0;

  // From now until ClearInterrupt(), Run() completes the pending access and returns
  // InterruptedExit without running guest code. One that runs already leaves only when its
  // thread also gets a signal.
  virtual void RequestInterrupt() = 0;
  virtual void ClearInterrupt() = 0;

  // The guest has not run for a while and is about to: what its watchdog missed meanwhile is no
  // lock-up of its own.
  virtual void NotePause() = 0;

  // The registers that tell where the guest is, on one line.
  virtual std::string DescribeState() = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_HYPERVISOR_VCPU_H_
