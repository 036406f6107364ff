#ifndef BULKHEAD_VMM_HYPERVISOR_VCPU_H_
#define BULKHEAD_VMM_HYPERVISOR_VCPU_H_

#include <string>

#include "vmm/hypervisor/vcpu_exit.h"

namespace bulkhead::vmm {

// A virtual CPU. RequestExit() may be called from any thread, the other functions from one thread
// only. Implemented over KVM; tests have a fake.
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  // Runs guest code until an exit needs the vmm. If the previous exit was a read, first gives the
  // guest the bytes that the caller put at the exit's data pointer.
  virtual VcpuExit Run() = 0;

  // Until ClearExitRequest(), Run() completes the pending access and returns InterruptedExit
  // without running guest code. A Run() that is already in guest code returns only if its thread
  // also gets a signal.
  virtual void RequestExit() = 0;
  virtual void ClearExitRequest() = 0;

  // Call after a pause, before the guest runs again: the guest's watchdog then does not report the
  // pause as a lock-up.
  virtual void NotePause() = 0;

  // Instruction pointer and other registers, for a crash report, on one line.
  virtual std::string DescribeState() = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_HYPERVISOR_VCPU_H_
