#ifndef BULKHEAD_VMM_VCPU_VCPU_THREADS_H_
#define BULKHEAD_VMM_VCPU_VCPU_THREADS_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vmm/hypervisor/vcpu.h"
#include "vmm/memory/address_space.h"
#include "vmm/vcpu/vcpu_thread.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// How vCPUs that wait for devices are reached: both act on the accesses of every device.
struct AccessWaits {
  // Accesses that wait, and those that begin to, return to their caller soon, which asks
  // VcpuThreads::ParkWhilePaused() what to do.
  std::function<void()> cancel;
  // From now on accesses wait again.
  std::function<void()> resume;
};

// All vCPUs of a VM, each on its thread. One caller at a time, but for ParkWhilePaused().
//
// A vCPU that ends the VM (power-off, triple fault, ...) reports to the VmEndLatch and leaves;
// whoever waits at the latch then calls Stop() for the others.
class VcpuThreads {
 public:
  // `waits` is called by Pause(), Resume() and Stop(), on their threads. The rest must outlive
  // this.
  VcpuThreads(std::vector<std::unique_ptr<Vcpu>> vcpus, AddressSpace& memory, AddressSpace& ports,
              VmEndLatch& end, AccessWaits waits);
  // Stops. A vCPU that cannot be stopped in ten seconds would go on to use what is destroyed
  // next: the process then ends, with a message.
  ~VcpuThreads();

  // Errors: as pthread_create(3); then no vCPU runs.
  absl::Status Start();

  // Returns once no vCPU executes guest code or deals with an access, except that it may be parked
  // in one. Does not wait for devices. Errors: DeadlineExceeded (names a vCPU; all run on).
  absl::Status Pause(absl::Duration timeout);
  // Returns once no vCPU executes guest code, as Pause(), but lets accesses wait on: the VM stands
  // still until one of them is answered. Pause() may follow, or Resume(). Errors: as Pause().
  absl::Status Hold(absl::Duration timeout);
  void Resume();

  // On the thread of a vCPU whose access was cancelled: blocks while the vCPUs are paused. True:
  // the access is to be waited for again; false: it is to be given up. `vcpu` may be anybody who
  // accesses devices: for one that is no vCPU the answer is false, at once.
  bool ParkWhilePaused(uint32_t vcpu);

  // Ends every vCPU, for good, and joins its thread; accesses stay cancelled. Errors:
  // DeadlineExceeded (names a vCPU; call it again to go on waiting).
  absl::Status Stop(absl::Duration timeout);

 private:
  const AccessWaits waits_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;
  bool started_ = false;  // and not wholly stopped
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_VCPU_THREADS_H_
