#ifndef BULKHEAD_VMM_CONFIG_NETWORK_H_
#define BULKHEAD_VMM_CONFIG_NETWORK_H_

#include <stdint.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/link_switch.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// The MTU of passt's networks, in both directions.
inline constexpr uint32_t kUserNetMtu = 65520;

// What `config` asks for. Errors: InvalidArgument, of the field of `config` whose name `field`
// gets.
absl::StatusOr<UserNetSpec> ReadUserNetwork(const v1::UserNetwork& config, std::string& field);

// Adds to `spec` what all network devices have: the link, and flags. `mac`: empty: it follows from
// the names, or without `vm_name` is random. Errors: as getrandom(2).
absl::Status FinishNetwork(std::string mac, uint32_t mtu, bool offloads, absl::string_view vm_name,
                           DeviceSpec& spec);

// The place in `config` of a flag that the vmm gives such a device; -1: none. `field`: of the TAP,
// which has that value.
int FindNetworkFlag(const v1::DeviceConfig& config, std::string& field);

// The links of those of `devices` that have one, by the device's name.
using NetworkLinks = std::map<std::string, std::shared_ptr<LinkSwitch>, std::less<>>;
NetworkLinks LinksOf(const std::vector<DeviceSpec>& devices);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_NETWORK_H_
