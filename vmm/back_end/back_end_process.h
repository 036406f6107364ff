#ifndef BULKHEAD_VMM_BACK_END_BACK_END_PROCESS_H_
#define BULKHEAD_VMM_BACK_END_BACK_END_PROCESS_H_

#include <string>

#include "vmm/config/program_report.h"
#include "vmm/config/vm_spec.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {

// The descriptor on which a back end listens. In its arguments "{socket}" stands for it.
inline constexpr int kBackEndSocket = 3;

// The process that starts a back end again and again. Call it in a new process, which may be a copy
// of one with several threads. Ends with its parent, and so does the back end. `parent`: a pidfd of
// that (base/end_with_parent.h). `listener`: a bound unix socket.
[[noreturn]] void SuperviseBackEnd(int parent, const std::string& device, const BackEndSpec& spec,
                                   int listener, SandboxLayers layers, ProgramReport& report);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_BACK_END_BACK_END_PROCESS_H_
