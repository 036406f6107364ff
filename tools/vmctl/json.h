#ifndef BULKHEAD_TOOLS_VMCTL_JSON_H_
#define BULKHEAD_TOOLS_VMCTL_JSON_H_

#include <string>

#include "google/protobuf/message.h"

namespace bulkhead::vmctl {

// Protobuf's JSON, as grpcurl has it: lowerCamelCase names, 64-bit numbers as strings. Fields that
// are 0 or empty are there too, so that scripts find them; the keys of maps are sorted.

// Over several lines, indented.
std::string PrettyJson(const google::protobuf::Message& message);
// On one line.
std::string LineOfJson(const google::protobuf::Message& message);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_JSON_H_
