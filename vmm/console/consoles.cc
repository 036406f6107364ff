#include "vmm/console/consoles.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {

absl::StatusOr<Consoles> Consoles::Create(std::vector<DeviceSpec>& devices) {
  Consoles consoles;
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (!resource.is_console) continue;
      ConsoleHub::Streams streams = {.device_name = device.name};
      if (resource.has_standard_streams) {
        streams.input_fd = STDIN_FILENO;
        streams.output_fd = STDOUT_FILENO;
      }
      std::unique_ptr<ConsoleHub>& hub = consoles.hubs_[device.name];
      ASSIGN_OR_RETURN(hub, ConsoleHub::Create(streams));
      resource.connect = [hub = hub.get()] { return hub->Connect(); };
    }
  }
  return consoles;
}

absl::StatusOr<ConsoleHub*> Consoles::Find(absl::string_view device) const {
  if (hubs_.empty()) {
    return absl::NotFoundError("this VM has no console: start it with --console=stdio or detached");
  }
  const std::string names = absl::StrJoin(
      hubs_, ", ", [](std::string* out, const auto& entry) { absl::StrAppend(out, entry.first); });
  if (device.empty()) {
    if (hubs_.size() == 1) return hubs_.begin()->second.get();
    return absl::InvalidArgumentError(
        absl::StrCat("there are several consoles: name one of ", names));
  }
  const auto found = hubs_.find(device);
  if (found == hubs_.end()) {
    return absl::NotFoundError(absl::StrCat("\"", device, "\" has no console; there is ", names));
  }
  return found->second.get();
}

void Consoles::Drain(absl::Duration limit) const {
  for (const auto& [device, hub] : hubs_) hub->Drain(limit);
}

}  // namespace bulkhead::vmm
