#ifndef BULKHEAD_PROTO_VERSION_H_
#define BULKHEAD_PROTO_VERSION_H_

#include <string>

#include "absl/strings/string_view.h"

namespace bulkhead {

inline constexpr char kVersion[] = "0.1";

// Of this program: "0.1, contract 2, build ce05267302e55e3f". Two programs work together if their
// contracts are the same; they are of one build if the build is.
std::string VersionText();

// The line that --version prints, with a newline.
std::string VersionLine(absl::string_view program);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_VERSION_H_
