#include "vmm/config/network.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/mac_address.h"
#include "base/status_macros.h"
#include "proto/net_link.h"
#include "vmm/config/link_switch.h"
#include "vmm/config/tap.h"

namespace bulkhead::vmm {
namespace {

constexpr const char* kFolders[] = {"/usr/local/bin", "/usr/bin", "/bin"};

bool IsPort(absl::string_view text) {
  uint32_t port = 0;
  return absl::SimpleAtoi(text, &port) && port >= 1 && port <= 65535;
}

bool IsAddress(const std::string& text) {
  in6_addr address;
  return inet_pton(AF_INET, text.c_str(), &address) == 1 ||
         inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

// As passt has it, with the address; "": `text` is not valid.
std::string ReadForward(const std::string& text) {
  const size_t slash = text.find('/');
  const std::string address = slash == std::string::npos ? "127.0.0.1" : text.substr(0, slash);
  const std::string ports = slash == std::string::npos ? text : text.substr(slash + 1);
  const std::vector<std::string> parts = absl::StrSplit(ports, ':');
  if (parts.size() != 2 || !IsPort(parts[0]) || !IsPort(parts[1]) || !IsAddress(address)) return "";
  return absl::StrCat(address, "/", ports);
}

std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
  for (const char* const folder : kFolders) {
    std::string path = absl::StrCat(folder, "/", name);
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return "";
}

}  // namespace

absl::StatusOr<UserNetSpec> ReadUserNetwork(const v1::UserNetwork& config, std::string& field) {
  UserNetSpec spec;
  field = "mac";
  if (!config.mac().empty() && !ParseMacAddress(config.mac()).has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("mac \"", config.mac(),
                     "\" is no address of one station: give six bytes, the first one even, such as "
                     "52:54:00:12:34:56"));
  }
  for (int i = 0; i < config.forward_size(); ++i) {
    field = absl::StrCat("forward[", i, "]");
    spec.forwards.push_back(ReadForward(config.forward(i)));
    if (spec.forwards.back().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "forward \"", config.forward(i),
          "\" is not valid; give PORT:GUESTPORT, such as 8022:22, or ADDRESS/PORT:GUESTPORT"));
    }
  }
  spec.host_loopback = config.host_loopback();
  field = "program";
  const std::string name = config.program().empty() ? "passt" : config.program();
  spec.program = FindProgram(name);
  if (spec.program.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", name, "\" is not installed, or may not be executed",
                     config.program().empty() ? "; install Debian's package passt" : ""));
  }
  return spec;
}

absl::Status FinishNetwork(std::string mac, uint32_t mtu, bool offloads, absl::string_view vm_name,
                           DeviceSpec& spec) {
  spec.link = std::make_shared<LinkSwitch>();
  ResourceSpec link;
  link.name = kLinkResource;
  link.connect = [changes = spec.link] { return changes->ForNextProcess(); };
  spec.resources.push_back(std::move(link));
  if (mac.empty() && !vm_name.empty()) mac = MacFromNames(vm_name, spec.name);
  if (mac.empty()) {
    ASSIGN_OR_RETURN(mac, RandomMac());
  }
  spec.args.push_back(absl::StrCat("--mac=", mac));
  if (mtu != 0) spec.args.push_back(absl::StrCat("--mtu=", mtu));
  if (!offloads) spec.args.push_back("--offloads=false");
  return absl::OkStatus();
}

int FindNetworkFlag(const v1::DeviceConfig& config, std::string& field) {
  for (int i = 0; i < config.arg_size(); ++i) {
    absl::string_view name = config.arg(i);
    if (!absl::ConsumePrefix(&name, "-")) continue;
    absl::ConsumePrefix(&name, "-");
    name = name.substr(0, name.find('='));
    field = name == "offloads" ? "no_offloads" : std::string(name);
    if (name == "mac" || name == "mtu" || name == "queues" || name == "offloads") return i;
  }
  return -1;
}

NetworkLinks LinksOf(const std::vector<DeviceSpec>& devices) {
  NetworkLinks links;
  for (const DeviceSpec& device : devices) {
    if (device.link != nullptr) links[device.name] = device.link;
  }
  return links;
}

}  // namespace bulkhead::vmm
