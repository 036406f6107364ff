#ifndef BULKHEAD_VMM_VCPU_VCPU_THREADS_H_
#define BULKHEAD_VMM_VCPU_VCPU_THREADS_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vmm/hypervisor/vcpu.h"
#include "vmm/memory/address_space.h"
#include "vmm/vcpu/thread_times.h"
#include "vmm/vcpu/vcpu_thread.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// Cancels and resumes the waits of vCPUs in accesses to devices; both act on every device.
struct WaitControl {
  // Accesses that wait, and those that begin to wait, return to their caller soon. The caller then
  // calls VcpuThreads::ParkWhilePaused().
  std::function<void()> cancel;
  // Accesses wait again.
  std::function<void()> resume;
};

// All vCPUs of a VM, each on its thread. One caller at a time, except for ParkWhilePaused().
//
// A vCPU that ends the VM (power-off, triple fault, ...) reports to the VmEndLatch and ends its
// thread. The thread that waits for the latch then calls Stop() for the others.
class VcpuThreads {
 public:
  // `waits` is called by Pause(), Resume() and Stop(), on their threads. `confine`, if there is
  // one, is called by each vCPU's thread before it runs guest code; an error ends the VM. The rest
  // must outlive this.
  VcpuThreads(std::vector<std::unique_ptr<Vcpu>> vcpus, AddressSpace& memory, AddressSpace& ports,
              VmEndLatch& end, WaitControl waits,
              const std::function<absl::Status()>& confine = {});
  // Stops all vCPUs. If one does not stop within ten seconds, ends the process with a message: the
  // vCPU would go on to use objects that are destroyed next.
  ~VcpuThreads();

  // Errors: as pthread_create(3); no vCPU runs then.
  absl::Status Start();

  // Returns once no vCPU executes guest code or handles an access; it may be parked in one. Does
  // not wait for devices. Errors: DeadlineExceeded (names a vCPU; all run on).
  absl::Status Pause(absl::Duration timeout);
  // Returns once no vCPU executes guest code, as Pause(), but does not cancel accesses: their vCPUs
  // wait on for the answers. Pause() or Resume() may follow. Errors: as Pause().
  absl::Status Hold(absl::Duration timeout);
  void Resume();

  // Call on the thread of a vCPU whose access was cancelled. Blocks while the vCPUs are paused.
  // True: wait for the access again. False: give it up. `vcpu` may be any waiter of device
  // accesses; for one that is not a vCPU, returns false at once.
  bool ParkWhilePaused(uint32_t vcpu);

  // The processor time of each vCPU's thread; empty for one that does not run. Thread-safe.
  std::vector<std::optional<ThreadTimes>> Times() const;

  // Ends every vCPU and joins its thread. Final; accesses stay cancelled. Errors: DeadlineExceeded
  // (names a vCPU; call it again to wait on).
  absl::Status Stop(absl::Duration timeout);

 private:
  const WaitControl waits_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;
  bool started_ = false;  // and not all stopped yet
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_VCPU_THREADS_H_
