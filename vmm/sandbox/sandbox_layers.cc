#include "vmm/sandbox/sandbox_layers.h"

#include <algorithm>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace bulkhead::vmm {
namespace {

// In the order of their bits.
constexpr absl::string_view kNames[] = {"user",     "uid",     "pid",    "mount", "net",
                                        "ipc",      "uts",     "cgroup", "caps",  "rlimits",
                                        "landlock", "seccomp", "vmm"};
static_assert(SandboxLayers::All().bits() == (1u << std::size(kNames)) - 1);

}  // namespace

absl::StatusOr<SandboxLayers> SandboxLayers::Parse(absl::string_view names) {
  uint32_t bits = 0;
  for (const absl::string_view name : absl::StrSplit(names, ',')) {
    const auto* const found = std::find(std::begin(kNames), std::end(kNames), name);
    if (found == std::end(kNames)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", name, "\" is no layer of the sandbox: ", absl::StrJoin(kNames, ", ")));
    }
    bits |= 1u << (found - kNames);
  }
  return SandboxLayers(bits);
}

std::vector<std::string> SandboxLayers::Names() const {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if ((bits_ >> i & 1) != 0) names.emplace_back(kNames[i]);
  }
  return names;
}

absl::string_view Name(SandboxLayer layer) {
  return kNames[__builtin_ctz(static_cast<uint32_t>(layer))];
}

}  // namespace bulkhead::vmm
