#ifndef BULKHEAD_VMM_CONSOLE_CONSOLES_H_
#define BULKHEAD_VMM_CONSOLE_CONSOLES_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/config/vm_spec.h"
#include "vmm/console/console_hub.h"

namespace bulkhead::vmm {

// The consoles of a VM: one hub for each. Must outlive the devices. Thread-safe.
class Consoles {
 public:
  // Creates a hub for each console in the resources of `devices`, and sets their `connect`. Errors:
  // as ConsoleHub::Create().
  static absl::StatusOr<Consoles> Create(std::vector<DeviceSpec>& devices);

  // The console of that device; "": the only one. Errors, for the client: NotFound, InvalidArgument
  // (there are several).
  absl::StatusOr<ConsoleHub*> Find(absl::string_view device) const;

  // ConsoleHub::Drain() of each, one after the other.
  void Drain(absl::Duration limit) const;

 private:
  std::map<std::string, std::unique_ptr<ConsoleHub>, std::less<>> hubs_;  // by device
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_CONSOLES_H_
