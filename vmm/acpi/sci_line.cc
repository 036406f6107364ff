#include "vmm/acpi/sci_line.h"

#include "absl/memory/memory.h"
#include "base/status_macros.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<SciLine>> SciLine::Create(EventRouting& routing) {
  ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
  RETURN_IF_ERROR(routing.BindIrq(layout::kAcpiGsi, event.fd(), /*resample_fd=*/-1));
  return absl::WrapUnique(new SciLine(routing, std::move(event)));
}

SciLine::~SciLine() { routing_.UnbindIrq(layout::kAcpiGsi, event_.fd()).IgnoreError(); }

}  // namespace bulkhead::vmm
