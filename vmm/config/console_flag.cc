#include "vmm/config/console_flag.h"

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vmm/config/device_flags.h"

namespace bulkhead::vmm {

absl::Status ParseConsole(absl::string_view text, CommandLine& line) {
  constexpr char kFlag[] = "--console";
  const std::vector<std::string> parts = SplitParts(text);
  const std::string kind = parts.empty() ? "" : parts[0];
  if (kind != "stdio" && kind != "detached" && kind != "none") {
    return FlagError(kFlag,
                     absl::StrCat("\"", kind, "\" is not valid; give stdio, detached or none"));
  }
  v1::ConsoleLog log;
  for (size_t i = 1; i < parts.size(); ++i) {
    absl::string_view value = parts[i];
    uint32_t keep = 0;
    if (absl::ConsumePrefix(&value, "log=")) {
      log.set_path(std::string(value));
    } else if (absl::ConsumePrefix(&value, "log-size=")) {
      log.set_size(std::string(value));
    } else if (absl::ConsumePrefix(&value, "log-keep=")) {
      if (!absl::SimpleAtoi(value, &keep)) {
        return FlagError(kFlag, absl::StrCat("log-keep=", value, " is not a number; give 0 to 99"));
      }
      log.set_keep(keep);
    } else {
      return FlagError(kFlag, absl::StrCat("\"", parts[i], "\" is unknown; give log=FILE, ",
                                           "log-size=SIZE, log-keep=N"));
    }
  }
  if (parts.size() > 1 && log.path().empty()) return FlagError(kFlag, "log=FILE is missing");
  if (kind == "none") {
    if (parts.size() == 1) return absl::OkStatus();
    return FlagError(kFlag, "none has nothing to log; give detached,log=FILE");
  }
  v1::DeviceConfig& device = AddDevice(line, kFlag);
  device.set_name("console");
  device.set_binary("uart16550");
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name("console");
  v1::Console& console = *resource.mutable_console();
  console.set_standard_streams(kind == "stdio");
  if (!log.path().empty()) *console.mutable_log() = log;
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
