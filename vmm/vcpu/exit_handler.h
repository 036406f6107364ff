#ifndef BULKHEAD_VMM_VCPU_EXIT_HANDLER_H_
#define BULKHEAD_VMM_VCPU_EXIT_HANDLER_H_

#include <stdint.h>

#include "vmm/hypervisor/vcpu_exit.h"
#include "vmm/memory/address_space.h"
#include "vmm/memory/io_handler.h"
#include "vmm/vm/vm_end.h"

namespace bulkhead::vmm {

// Handles the exits of one vCPU: accesses go to their handlers; other exits end the VM or make
// the thread check its requests. Uses neither KVM nor threads, so that tests can feed it.
// Thread-compatible: one for each vCPU.
class ExitHandler {
 public:
  // `vcpu` is its index. The address spaces must outlive this.
  ExitHandler(Waiter vcpu, AddressSpace& memory, AddressSpace& ports)
      : vcpu_(vcpu), memory_(memory), ports_(ports) {}

  enum class Next {
    kRun,            // run the vCPU again: the result of its access is in place
    kCheckRequests,  // it was interrupted: a pause or stop may be requested
    kEndVm,          // `end` says why
    kCrashVm,        // likewise; add the vCPU's state to the message
  };
  Next Handle(const VcpuExit& exit, VmEnd& end);

 private:
  void HandleMmio(const MmioExit& exit);
  void HandlePort(const PortExit& exit);

  const Waiter vcpu_;
  AddressSpace::View memory_;
  AddressSpace::View ports_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VCPU_EXIT_HANDLER_H_
