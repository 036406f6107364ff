#ifndef BULKHEAD_VMM_ACPI_SCI_LINE_H_
#define BULKHEAD_VMM_ACPI_SCI_LINE_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "base/event_fd.h"
#include "vmm/hypervisor/event_routing.h"

namespace bulkhead::vmm {

// ACPI's system control interrupt, layout::kAcpiGsi. It is edge-triggered, as the MADT says: an
// event that comes while the guest handles another is not lost, and the vmm need not lower the
// line. Thread-safe.
class SciLine {
 public:
  // `routing` must outlive the line. Errors: as eventfd(2), those of EventRouting::BindIrq().
  static absl::StatusOr<std::unique_ptr<SciLine>> Create(EventRouting& routing);
  ~SciLine();
  SciLine(const SciLine&) = delete;
  SciLine& operator=(const SciLine&) = delete;

  void Raise() { event_.Signal(); }

 private:
  SciLine(EventRouting& routing, EventFd event) : routing_(routing), event_(std::move(event)) {}

  EventRouting& routing_;
  const EventFd event_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_ACPI_SCI_LINE_H_
