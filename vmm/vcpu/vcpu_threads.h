#ifndef BULKHEAD_VMM_VCPU_VCPU_THREADS_H_
#define BULKHEAD_VMM_VCPU_VCPU_THREADS_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/memory/address_space.h"
#include "vmm/vcpu/vcpu_thread.h"
#include "vmm/vcpu/vm_end.h"

namespace bulkhead::vmm {

// All vCPUs of a VM, each on its thread. One caller at a time.
//
// A vCPU that ends the VM (power-off, triple fault, ...) reports to the VmEndLatch and leaves;
// whoever waits at the latch then calls Stop() for the others.
class VcpuThreads {
 public:
  // `cancel_accesses` is called by Stop(), on its thread: it must make every access that waits
  // for a device return soon, and later ones at once. The rest must outlive this.
  VcpuThreads(std::vector<std::unique_ptr<Vcpu>> vcpus, AddressSpace& memory, AddressSpace& ports,
              VmEndLatch& end, std::function<void()> cancel_accesses);
  // Stops. A vCPU that cannot be stopped in ten seconds would go on to use what is destroyed
  // next: the process then ends, with a message.
  ~VcpuThreads();

  // Errors: as pthread_create(3); then no vCPU runs.
  absl::Status Start();

  // Returns once no vCPU executes guest code or is in the middle of an access. Accesses are
  // given the time to finish. Errors: DeadlineExceeded (names a vCPU; all run on).
  absl::Status Pause(absl::Duration timeout);
  void Resume();

  // Ends every vCPU, for good, and joins its thread. Errors: DeadlineExceeded (names a vCPU; call
  // it again to go on waiting).
  absl::Status Stop(absl::Duration timeout);

 private:
  const std::function<void()> cancel_accesses_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;
  bool started_ = false;  // and not wholly stopped
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_VCPU_THREADS_H_
