#ifndef BULKHEAD_PROTO_VERSION_H_
#define BULKHEAD_PROTO_VERSION_H_

#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead {

inline constexpr char kVersion[] = "0.1";

// The version of this program: "0.1, contract 3, build ce05267302e55e3f". Programs with the same
// contract work together.
std::string VersionText();

// The line that --version prints, with a newline.
std::string VersionLine(absl::string_view program);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_VERSION_H_
