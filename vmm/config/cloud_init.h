#ifndef BULKHEAD_VMM_CONFIG_CLOUD_INIT_H_
#define BULKHEAD_VMM_CONFIG_CLOUD_INIT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/cloud_init_volume.h"

namespace bulkhead::vmm {

// Whether any field is set: else the VM has no volume.
bool HasCloudInit(const v1::CloudInit& config);

// Reads the files that `config` names and makes the other ones. `vm_name`: a part of what tells one
// instance from another. On an error `part` is the field of `config` that it is about. Errors:
// InvalidArgument, one line for the user; ResourceExhausted.
absl::StatusOr<CloudInitFiles> ReadCloudInit(const v1::CloudInit& config,
                                             const std::string& vm_name, std::string& part);

// The public keys of a file of them, each "TYPE BASE64", with its comment if that is plain text.
// Errors: InvalidArgument, what is wrong with which line.
absl::StatusOr<std::vector<std::string>> ParseSshKeys(absl::string_view text);

// What is wrong with a host's name (RFC 1123), or "".
std::string ProblemOfHostname(absl::string_view name);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_CLOUD_INIT_H_
