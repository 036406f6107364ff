#include "vmm/config/vsock_flag.h"

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "vmm/config/device_flags.h"
#include "vmm/config/vsock.h"

namespace bulkhead::vmm {

absl::Status ParseVsock(absl::string_view text, CommandLine& line) {
  v1::DeviceConfig device;
  device.set_name(FreeName(line, "vsock"));
  VsockFlag vsock;
  for (const std::string& part : SplitParts(text)) {
    ASSIGN_OR_RETURN(const bool taken, ParseSupervision("--vsock", part, device));
    if (taken || vsock.Take(part)) continue;
    absl::string_view value = part;
    if (absl::ConsumePrefix(&value, "name=")) {
      device.set_name(std::string(value));
    } else if (absl::ConsumePrefix(&value, "slot=")) {
      RETURN_IF_ERROR(ParseSlot("--vsock", value, device));
    } else {
      return FlagError("--vsock",
                       absl::StrCat("\"", part, "\" is unknown; give cid=N, socket=PATH, ",
                                    "name=NAME, slot=N, restart=, policy=, heartbeat=, spare"));
    }
  }
  if (const std::string problem = vsock.Fill(device); !problem.empty()) {
    return FlagError("--vsock", problem);
  }
  AddDevice(line, "--vsock") = std::move(device);
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
