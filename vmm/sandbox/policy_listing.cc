#include "vmm/sandbox/policy_listing.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>

#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "vmm/sandbox/policy_note.h"
#include "vmm/sandbox/policy_text.h"
#include "vmm/sandbox/seccomp_policy.h"

namespace bulkhead::vmm {
namespace {

// What the rule says behind the name of the system call.
absl::string_view ConditionsOf(const SyscallRule& rule) {
  const size_t colon = rule.text.find(':');
  if (colon == std::string::npos) return "";
  return absl::StripAsciiWhitespace(absl::string_view(rule.text).substr(colon + 1));
}

std::string List(const std::vector<SyscallRule>& rules, size_t common) {
  std::set<std::string> starting;
  std::set<std::string> serving;
  std::string text;
  for (size_t i = 0; i < rules.size(); ++i) {
    if (rules[i].error == 0) starting.insert(rules[i].name);
    if (rules[i].error == 0 && !rules[i].start) serving.insert(rules[i].name);
    const std::string line = absl::StrFormat("  %-8s%-20s%s", i < common ? "all" : "device",
                                             rules[i].name, ConditionsOf(rules[i]));
    absl::StrAppend(&text, absl::StripTrailingAsciiWhitespace(line), "\n");
  }
  return absl::StrCat(text, "system calls allowed: starting ", starting.size(), ", serving ",
                      serving.size(), "; any other fails as shown or ends the process\n");
}

}  // namespace

absl::StatusOr<std::string> ListPolicyOf(const std::string& binary_path) {
  const auto failed = [&binary_path](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("\"", binary_path, "\": ", why));
  };
  const UniqueFd binary(open(binary_path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!binary.ok()) return failed(strerror(errno));
  const absl::StatusOr<std::string> policy = ReadPolicyNote(binary.get());
  if (!policy.ok()) return failed(policy.status().message());
  const absl::StatusOr<std::vector<SyscallRule>> common = DeviceRules("");
  if (!common.ok()) return common.status();
  const absl::StatusOr<std::vector<SyscallRule>> rules = DeviceRules(*policy);
  if (!rules.ok()) return failed(rules.status().message());
  return absl::StrCat(
      binary_path, ": the system calls of its sandbox, for all devices and for this one",
      policy->empty() ? " (it has no policy of its own)" : "", "\n", List(*rules, common->size()));
}

}  // namespace bulkhead::vmm
