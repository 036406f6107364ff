#include "proto/version.h"

#include "absl/strings/str_cat.h"
#include "base/build_id.h"
#include "proto/contract.h"

namespace bulkhead {

std::string VersionText() {
  const std::string build = BuildId();
  return absl::StrCat(kVersion, ", contract ", kContractVersion, build.empty() ? "" : ", build ",
                      build);
}

std::string VersionLine(absl::string_view program) {
  return absl::StrCat(program, " (Bulkhead) ", VersionText(), "\n");
}

}  // namespace bulkhead
