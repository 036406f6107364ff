#ifndef BULKHEAD_VMM_CONFIG_CLOUD_INIT_FLAG_H_
#define BULKHEAD_VMM_CONFIG_CLOUD_INIT_FLAG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/config/command_line.h"

namespace bulkhead::vmm {

// What `--cloud-init text` says. Errors: InvalidArgument, for people.
absl::Status ParseCloudInit(absl::string_view text, CommandLine& line);

void AddSshKey(const std::string& path, CommandLine& line);
void SetHostname(const std::string& name, CommandLine& line);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_CLOUD_INIT_FLAG_H_
