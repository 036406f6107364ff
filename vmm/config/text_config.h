#ifndef BULKHEAD_VMM_CONFIG_TEXT_CONFIG_H_
#define BULKHEAD_VMM_CONFIG_TEXT_CONFIG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/validate.h"

namespace bulkhead::vmm {

// Reads a configuration in protobuf text format. `file_name` is for messages. Adds the place
// of every field to `places`. Errors: InvalidArgument, one line: file, line, what is wrong.
absl::Status ParseTextConfig(absl::string_view text, absl::string_view file_name,
                             v1::VmConfig& config, FieldPlaces& places);

// The same for a file. Errors also: the file cannot be read, or has more than 1 MiB.
absl::Status ReadTextConfig(const std::string& path, v1::VmConfig& config, FieldPlaces& places);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_TEXT_CONFIG_H_
