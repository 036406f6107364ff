#include "vmm/config/vhost_user_flag.h"

#include <stdint.h>

#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "vmm/config/device_flags.h"

namespace bulkhead::vmm {
namespace {

constexpr char kFlag[] = "--vhost-user";

// The device's own flags that take the same values. Whether a value fits its type, the device says.
absl::StatusOr<bool> ParseNumber(absl::string_view part, v1::DeviceConfig& device) {
  const std::pair<absl::string_view, absl::string_view> numbers[] = {
      {"queues=", "--queues="}, {"queue-size=", "--queue_size="}};
  for (const auto& [name, flag] : numbers) {
    absl::string_view value = part;
    if (!absl::ConsumePrefix(&value, name)) continue;
    uint32_t number = 0;
    if (!absl::SimpleAtoi(value, &number) || number == 0) {
      return FlagError(kFlag, absl::StrCat("\"", part, "\" is not a whole number above 0"));
    }
    device.add_arg(absl::StrCat(flag, number));
    return true;
  }
  return false;
}

}  // namespace

absl::Status ParseVhostUser(absl::string_view text, CommandLine& line) {
  v1::DeviceConfig device;
  std::string name, type, socket, tag;
  bool relays = false;
  for (const std::string& part : SplitParts(text)) {
    ASSIGN_OR_RETURN(const bool supervises, ParseSupervision(kFlag, part, device));
    if (supervises) continue;
    ASSIGN_OR_RETURN(const bool counts, ParseNumber(part, device));
    if (counts) continue;
    absl::string_view value = part;
    if (absl::ConsumePrefix(&value, "type=")) {
      type = std::string(value);
    } else if (absl::ConsumePrefix(&value, "socket=")) {
      socket = std::string(value);
    } else if (absl::ConsumePrefix(&value, "tag=")) {
      tag = std::string(value);
    } else if (part == "relay") {
      relays = true;
    } else if (absl::ConsumePrefix(&value, "name=")) {
      name = std::string(value);
    } else if (absl::ConsumePrefix(&value, "slot=")) {
      RETURN_IF_ERROR(ParseSlot(kFlag, value, device));
    } else {
      return FlagError(kFlag, absl::StrCat("\"", part, "\" is unknown; give type=blk or type=fs, ",
                                           "socket=PATH, queues=N, queue-size=N, relay, tag=NAME, ",
                                           "name=NAME, slot=N, restart=, policy=, heartbeat=, "
                                           "spare"));
    }
  }
  if (type != "blk" && type != "fs") {
    return FlagError(kFlag, type.empty()
                                ? "type= is missing; give type=blk or type=fs"
                                : absl::StrCat("type=", type, " is not a type; give blk or fs"));
  }
  if (socket.empty()) {
    return FlagError(kFlag, "socket=PATH is missing: the socket on which the back end listens");
  }
  if ((type == "fs") != !tag.empty()) {
    return FlagError(kFlag, tag.empty()
                                ? "tag=NAME is missing: the name by which the guest mounts it"
                                : "tag= is for type=fs only");
  }
  if (relays) device.add_arg("--relay");
  device.add_arg(absl::StrCat("--type=", type));
  if (!tag.empty()) device.add_arg(absl::StrCat("--tag=", tag));
  device.set_name(!name.empty() ? name : FreeName(line, type == "fs" ? "fs" : "disk"));
  device.set_binary("vhost_user");
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name("back_end");
  resource.mutable_unix_socket()->set_path(socket);
  AddDevice(line, kFlag) = std::move(device);
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
