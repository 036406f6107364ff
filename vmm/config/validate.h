#ifndef BULKHEAD_VMM_CONFIG_VALIDATE_H_
#define BULKHEAD_VMM_CONFIG_VALIDATE_H_

#include <stdint.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// Where the fields of a configuration were written, for error messages: field path
// ("devices[1].name") to place ("vm.textproto:12" or "--disk"). A field that is not listed
// takes the place of the nearest message around it.
using FieldPlaces = std::map<std::string, std::string>;

// The limits of the host.
struct HostLimits {
  uint64_t memory_bytes = 0;
  // Of guest-physical addresses (MAXPHYADDR).
  uint32_t physical_address_bits = 52;
  // Folders in which a device binary without a '/' is looked up, in this order.
  std::vector<std::string> device_dirs;
  // False: do not lock files, because a VM with this configuration may be running.
  bool lock_files = true;
};

// This host. The device folders are those beside the running vmm.
HostLimits CurrentHost();

// Checks every field once and opens every file. Errors: InvalidArgument, one line: place,
// field, value, and what is accepted.
absl::StatusOr<VmSpec> ValidateConfig(const v1::VmConfig& config, const FieldPlaces& places,
                                      const HostLimits& host);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_VALIDATE_H_
