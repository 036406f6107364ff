#include "vmm/config/device_flags.h"

#include <stdint.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace bulkhead::vmm {

std::vector<std::string> SplitParts(absl::string_view text) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      parts.back().push_back(text[i]);
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      parts.back().push_back(',');
      ++i;
    } else {
      parts.emplace_back();
    }
  }
  return parts;
}

absl::Status FlagError(absl::string_view flag, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", problem));
}

v1::DeviceConfig& AddDevice(CommandLine& line, absl::string_view flag) {
  line.places[absl::StrCat("devices[", line.config.devices_size(), "]")] = std::string(flag);
  return *line.config.add_devices();
}

v1::FileResource& AddFile(v1::DeviceConfig& device, absl::string_view name, absl::string_view path,
                          bool read_only) {
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name(std::string(name));
  resource.mutable_file()->set_path(std::string(path));
  resource.mutable_file()->set_read_only(read_only);
  return *resource.mutable_file();
}

std::string FreeName(const CommandLine& line, absl::string_view kind) {
  for (int i = 0;; ++i) {
    std::string name = absl::StrCat(kind, i);
    bool free = true;
    for (const v1::DeviceConfig& device : line.config.devices()) {
      free = free && device.name() != name;
    }
    if (free) return name;
  }
}

absl::Status ParseSlot(absl::string_view flag, absl::string_view text, v1::DeviceConfig& device) {
  uint32_t slot = 0;
  if (!absl::SimpleAtoi(text, &slot) || slot == 0) {
    return FlagError(flag, absl::StrCat("slot=", text, " is not a slot number (1 to 31)"));
  }
  device.set_pci_slot(slot);
  return absl::OkStatus();
}

absl::StatusOr<bool> ParseSupervision(absl::string_view flag, absl::string_view part,
                                      v1::DeviceConfig& device) {
  using Restart = v1::RestartConfig;
  using Device = v1::DeviceConfig;
  absl::string_view value = part;
  if (absl::ConsumePrefix(&value, "restart=")) {
    const Restart::Policy policy = value == "on-failure" ? Restart::ON_FAILURE
                                   : value == "always"   ? Restart::ALWAYS
                                   : value == "never"    ? Restart::NEVER
                                                         : Restart::POLICY_UNSPECIFIED;
    device.mutable_restart()->set_policy(policy);
    if (policy != Restart::POLICY_UNSPECIFIED) return true;
    return FlagError(flag,
                     absl::StrCat("\"", part, "\" is not valid; give always, on-failure or never"));
  }
  if (absl::ConsumePrefix(&value, "policy=")) {
    const Device::AccessPolicy policy = value == "wait"       ? Device::WAIT
                                        : value == "all-ones" ? Device::ALL_ONES
                                        : value == "pause-vm" ? Device::PAUSE_VM
                                                              : Device::ACCESS_POLICY_UNSPECIFIED;
    device.set_access_policy(policy);
    if (policy != Device::ACCESS_POLICY_UNSPECIFIED) return true;
    return FlagError(flag,
                     absl::StrCat("\"", part, "\" is not valid; give wait, all-ones or pause-vm"));
  }
  if (absl::ConsumePrefix(&value, "heartbeat=")) {
    device.mutable_heartbeat()->set_interval(std::string(value));
    return true;
  }
  if (part == "spare") device.set_spare(true);
  return part == "spare";
}

absl::StatusOr<bool> ParseLimit(absl::string_view flag, absl::string_view part,
                                absl::string_view operations, v1::DeviceConfig& device) {
  const std::string operations_burst = absl::StrCat(operations, "-burst");
  for (const absl::string_view name :
       {absl::string_view("bps"), operations, absl::string_view("bps-burst"),
        absl::string_view(operations_burst)}) {
    absl::string_view value = part;
    if (!absl::ConsumePrefix(&value, absl::StrCat(name, "="))) continue;
    const bool is_bytes = absl::StartsWith(name, "bps");
    uint64_t unit = 1;
    if (is_bytes && absl::ConsumeSuffix(&value, "K")) unit = 1 << 10;
    if (is_bytes && unit == 1 && absl::ConsumeSuffix(&value, "M")) unit = 1 << 20;
    if (is_bytes && unit == 1 && absl::ConsumeSuffix(&value, "G")) unit = 1 << 30;
    uint64_t count = 0;
    if (!absl::SimpleAtoi(value, &count) || count == 0 || count > INT64_MAX / unit) {
      return FlagError(flag, absl::StrCat("\"", part, "\" is not a whole number above 0",
                                          is_bytes ? "; give it as 500K, 20M or 1G" : ""));
    }
    device.add_arg(absl::StrCat("--", absl::StrReplaceAll(name, {{"-", "_"}}), "=", count * unit));
    return true;
  }
  return false;
}

}  // namespace bulkhead::vmm
