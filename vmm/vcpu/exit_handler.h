#ifndef BULKHEAD_VMM_VCPU_EXIT_HANDLER_H_
#define BULKHEAD_VMM_VCPU_EXIT_HANDLER_H_

#include <stdint.h>

#include "vmm/hypervisor/vcpu_exit.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/io_handler.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// Decides what an exit of one vCPU means: accesses go to their handlers, the rest ends the VM or
// the run. Knows nothing of KVM or threads, so that tests can feed it. Thread-compatible: one
// for each vCPU.
class ExitHandler {
 public:
  // `vcpu` is its index. The address spaces must outlive this.
  ExitHandler(Requester vcpu, AddressSpace& memory, AddressSpace& ports)
      : vcpu_(vcpu), memory_(memory), ports_(ports) {}

  enum class Next {
    kRun,            // run the vCPU again: data that it waits for is in place
    kCheckRequests,  // it was interrupted: someone may want it to pause or stop
    kEndVm,          // `end` says why
    kCrashVm,        // likewise; the vCPU's state tells more
  };
  Next Handle(const VcpuExit& exit, VmEnd& end);

 private:
  void HandleMmio(const MmioExit& exit);
  void HandlePort(const PortExit& exit);

  const Requester vcpu_;
  AddressSpace::View memory_;
  AddressSpace::View ports_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_EXIT_HANDLER_H_
