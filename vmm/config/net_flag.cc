#include "vmm/config/net_flag.h"

#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "vmm/config/device_flags.h"

namespace bulkhead::vmm {
namespace {

constexpr char kFlag[] = "--net";

absl::Status ParseUserNet(const std::vector<std::string>& parts, CommandLine& line) {
  v1::DeviceConfig device;
  device.set_name(FreeName(line, "net"));
  device.set_binary("virtio_net");
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name("tap");
  v1::UserNetwork& network = *resource.mutable_user_network();
  for (const std::string& part : parts) {
    ASSIGN_OR_RETURN(const bool taken, ParseSupervision(kFlag, part, device));
    if (taken || part == "user") continue;
    ASSIGN_OR_RETURN(const bool is_limit, ParseLimit(kFlag, part, "pps", device));
    if (is_limit) continue;
    absl::string_view value = part;
    if (absl::ConsumePrefix(&value, "forward=")) {
      network.add_forward(std::string(value));
    } else if (absl::ConsumePrefix(&value, "mac=")) {
      network.set_mac(std::string(value));
    } else if (value == "host-loopback") {
      network.set_host_loopback(true);
    } else if (absl::ConsumePrefix(&value, "name=")) {
      device.set_name(std::string(value));
    } else if (absl::ConsumePrefix(&value, "slot=")) {
      RETURN_IF_ERROR(ParseSlot(kFlag, value, device));
    } else {
      return FlagError(
          kFlag, absl::StrCat("\"", part, "\" is unknown; give forward=PORT:GUESTPORT, ",
                              "host-loopback, mac=ADDRESS, bps=, pps=, bps-burst=, pps-burst=, ",
                              "name=NAME, slot=N, restart=, policy=, heartbeat=, spare"));
    }
  }
  AddDevice(line, kFlag) = std::move(device);
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseNet(absl::string_view text, CommandLine& line) {
  const std::vector<std::string> parts = SplitParts(text);
  if (parts[0] == "user") return ParseUserNet(parts, line);
  if (parts[0] != "tap" && !absl::StartsWith(parts[0], "tap=")) {
    return FlagError(kFlag,
                     absl::StrCat("\"", parts[0], "\" is unknown; give tap, tap=IFNAME or user"));
  }
  v1::DeviceConfig device;
  device.set_name(FreeName(line, "net"));
  device.set_binary("virtio_net");
  v1::ResourceConfig& resource = *device.add_resources();
  resource.set_name("tap");
  v1::TapResource& tap = *resource.mutable_tap();
  for (const std::string& part : parts) {
    ASSIGN_OR_RETURN(const bool taken, ParseSupervision(kFlag, part, device));
    if (taken || part == "tap") continue;
    ASSIGN_OR_RETURN(const bool is_limit, ParseLimit(kFlag, part, "pps", device));
    if (is_limit) continue;
    if (part == "offloads=off") {
      tap.set_no_offloads(true);
      continue;
    }
    const auto number = [&](absl::string_view value, auto set) -> absl::Status {
      uint32_t parsed = 0;
      if (!absl::SimpleAtoi(value, &parsed) || parsed == 0 || parsed > INT32_MAX) {
        return FlagError(kFlag, absl::StrCat("\"", part, "\" is not a whole number above 0"));
      }
      set(parsed);
      return absl::OkStatus();
    };
    absl::string_view value = part;
    if (absl::ConsumePrefix(&value, "tap=")) {
      tap.set_name(std::string(value));
    } else if (absl::ConsumePrefix(&value, "bridge=")) {
      tap.set_bridge(std::string(value));
    } else if (absl::ConsumePrefix(&value, "mac=")) {
      tap.set_mac(std::string(value));
    } else if (absl::ConsumePrefix(&value, "mtu=")) {
      RETURN_IF_ERROR(number(value, [&](uint32_t n) { tap.set_mtu(n); }));
    } else if (absl::ConsumePrefix(&value, "queues=")) {
      RETURN_IF_ERROR(number(value, [&](uint32_t n) { tap.set_queues(n); }));
    } else if (absl::ConsumePrefix(&value, "fd=")) {
      RETURN_IF_ERROR(number(value, [&](uint32_t n) { tap.add_fd(static_cast<int32_t>(n)); }));
    } else if (absl::ConsumePrefix(&value, "name=")) {
      device.set_name(std::string(value));
    } else if (absl::ConsumePrefix(&value, "slot=")) {
      RETURN_IF_ERROR(ParseSlot(kFlag, value, device));
    } else {
      return FlagError(
          kFlag, absl::StrCat("\"", part, "\" is unknown; give tap=IFNAME, ",
                              "bridge=BRIDGE, mac=ADDRESS, mtu=N, queues=N, fd=N, offloads=off, ",
                              "bps=, pps=, bps-burst=, pps-burst=, name=NAME, slot=N, restart=, "
                              "policy=, heartbeat=, ",
                              "spare"));
    }
  }
  AddDevice(line, kFlag) = std::move(device);
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
