#include "vmm/sandbox/policy_text.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kMaxArgument = 5;
constexpr int kMaxErrno = 4095;  // the kernel's

struct Constant {
  absl::string_view name;
  uint64_t value;
};

#define CONSTANT(name) {#name, static_cast<uint64_t>(name)}
// Those that the policies of this tree use. Add what yours needs.
constexpr Constant kConstants[] = {
    CONSTANT(ARCH_SET_FS),
    CONSTANT(AT_EMPTY_PATH),
    CONSTANT(BLKDISCARD),
    CONSTANT(BLKGETSIZE64),
    CONSTANT(BLKPBSZGET),
    CONSTANT(BLKROGET),
    CONSTANT(BLKSSZGET),
    CONSTANT(CLONE_CHILD_CLEARTID),
    CONSTANT(CLONE_FILES),
    CONSTANT(CLONE_FS),
    CONSTANT(CLONE_PARENT_SETTID),
    CONSTANT(CLONE_SETTLS),
    CONSTANT(CLONE_SIGHAND),
    CONSTANT(CLONE_SYSVSEM),
    CONSTANT(CLONE_THREAD),
    CONSTANT(CLONE_VM),
    CONSTANT(F_DUPFD_CLOEXEC),
    CONSTANT(F_GETFD),
    CONSTANT(F_GETFL),
    CONSTANT(F_SETFD),
    CONSTANT(F_SETFL),
    CONSTANT(MADV_DONTDUMP),
    CONSTANT(MADV_DONTNEED),
    CONSTANT(MADV_HUGEPAGE),
    CONSTANT(MADV_REMOVE),
    CONSTANT(O_CREAT),
    CONSTANT(O_NONBLOCK),
    CONSTANT(O_TRUNC),
    CONSTANT(O_WRONLY),
    CONSTANT(PROT_EXEC),
    CONSTANT(PR_SET_DUMPABLE),
    CONSTANT(PR_SET_NAME),
    CONSTANT(PR_SET_PDEATHSIG),
    CONSTANT(RLIMIT_FSIZE),
    CONSTANT(SECCOMP_FILTER_FLAG_TSYNC),
    CONSTANT(SECCOMP_SET_MODE_FILTER),
    CONSTANT(SIGABRT),
    CONSTANT(SIGKILL),
    CONSTANT(TUNSETOFFLOAD),
};
constexpr Constant kErrors[] = {
    CONSTANT(EACCES), CONSTANT(EINVAL), CONSTANT(ENOENT),
    CONSTANT(ENOMEM), CONSTANT(ENOSYS), CONSTANT(EPERM),
};
#undef CONSTANT

std::string Quoted(absl::string_view word) {
  return absl::StrCat("\"", absl::CHexEscape(word.substr(0, 64)), "\"");
}

template <size_t size>
std::string Names(const Constant (&constants)[size]) {
  return absl::StrJoin(constants, ", ", [](std::string* out, const Constant& constant) {
    absl::StrAppend(out, constant.name);
  });
}

template <size_t size>
std::optional<uint64_t> Lookup(const Constant (&constants)[size], absl::string_view name) {
  for (const Constant& constant : constants) {
    if (constant.name == name) return constant.value;
  }
  return std::nullopt;
}

absl::StatusOr<uint64_t> ParseTerm(absl::string_view term) {
  uint64_t value = 0;
  if (absl::StartsWith(term, "0x") ? absl::SimpleHexAtoi(term, &value)
                                   : absl::SimpleAtoi(term, &value)) {
    return value;
  }
  if (const auto constant = Lookup(kConstants, term)) return *constant;
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(term), " is neither a number (12, 0xc) nor one of ", Names(kConstants)));
}

// "A|B|0x10".
absl::StatusOr<uint64_t> ParseValue(absl::string_view text) {
  uint64_t value = 0;
  for (const absl::string_view term : absl::StrSplit(text, '|')) {
    ASSIGN_OR_RETURN(const uint64_t bits, ParseTerm(absl::StripAsciiWhitespace(term)));
    value |= bits;
  }
  return value;
}

// "arg1 == VALUE" or "arg2 & MASK == VALUE".
absl::StatusOr<ArgumentCondition> ParseCondition(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  const std::vector<absl::string_view> sides = absl::StrSplit(text, "==");
  if (sides.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the condition ", Quoted(text), " must be \"argN == VALUE\" or \"argN & MASK == VALUE\""));
  }
  const std::pair<absl::string_view, absl::string_view> left =
      absl::StrSplit(sides[0], absl::MaxSplits('&', 1));
  ArgumentCondition condition;
  absl::string_view name = absl::StripAsciiWhitespace(left.first);
  if (!absl::ConsumePrefix(&name, "arg") || name.size() != 1 || name[0] < '0' ||
      name[0] > static_cast<char>('0' + kMaxArgument)) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(absl::StripAsciiWhitespace(left.first)),
                                                   " must be arg0 to arg", kMaxArgument));
  }
  condition.argument = static_cast<uint32_t>(name[0] - '0');
  if (sides[0].find('&') != absl::string_view::npos) {
    ASSIGN_OR_RETURN(condition.mask, ParseValue(left.second));
  }
  ASSIGN_OR_RETURN(condition.expected, ParseValue(sides[1]));
  if ((condition.expected & ~condition.mask) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the condition ", Quoted(text), " never holds: the value has other bits than the mask"));
  }
  return condition;
}

absl::StatusOr<int> ParseError(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (const auto error = Lookup(kErrors, text)) return static_cast<int>(*error);
  int value = 0;
  if (absl::SimpleAtoi(text, &value) && value >= 1 && value <= kMaxErrno) return value;
  return absl::InvalidArgumentError(absl::StrCat("errno: ", Quoted(text), " is neither 1 to ",
                                                 kMaxErrno, " nor one of ", Names(kErrors)));
}

// `text`: without comment, not empty.
absl::StatusOr<SyscallRule> ParseRule(absl::string_view text) {
  SyscallRule rule;
  rule.text = std::string(text);
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  rule.name = std::string(absl::StripAsciiWhitespace(parts.first));
  // libseccomp takes names up to the first NUL, and has negative numbers for those of other
  // architectures.
  const bool is_name = std::all_of(rule.name.begin(), rule.name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
  });
  rule.number = is_name ? seccomp_syscall_resolve_name(rule.name.c_str()) : -1;
  if (rule.number < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(rule.name),
                     " is not a system call of x86-64; a line is \"NAME\", \"NAME: [start &&] "
                     "CONDITION [&& CONDITION]...\", \"NAME: start[, errno ERROR]\" or \"NAME: "
                     "errno ERROR\""));
  }
  if (text.find(':') == absl::string_view::npos) return rule;
  absl::string_view right = absl::StripAsciiWhitespace(parts.second);
  if (absl::ConsumePrefix(&right, "errno ")) {
    ASSIGN_OR_RETURN(rule.error, ParseError(right));
    return rule;
  }
  std::vector<absl::string_view> conditions = absl::StrSplit(right, "&&");
  absl::string_view first = absl::StripAsciiWhitespace(conditions[0]);
  if (absl::ConsumePrefix(&first, "start")) {
    rule.start = true;
    first = absl::StripAsciiWhitespace(first);
    if (absl::ConsumePrefix(&first, ",")) {
      first = absl::StripAsciiWhitespace(first);
      if (conditions.size() > 1 || !absl::ConsumePrefix(&first, "errno ")) {
        return absl::InvalidArgumentError(
            absl::StrCat(Quoted(right), " must be \"start, errno ERROR\", without conditions"));
      }
      ASSIGN_OR_RETURN(rule.later_error, ParseError(first));
    } else if (!first.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(right), ": accepted behind \"start\" are \"&&\" and \", errno\""));
    }
    conditions.erase(conditions.begin());
  }
  for (const absl::string_view part : conditions) {
    ASSIGN_OR_RETURN(const ArgumentCondition condition, ParseCondition(part));
    for (const ArgumentCondition& other : rule.conditions) {
      if (other.argument != condition.argument) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "arg", condition.argument, " has two conditions; accepted is one for each argument"));
    }
    rule.conditions.push_back(condition);
  }
  return rule;
}

}  // namespace

absl::StatusOr<std::vector<SyscallRule>> ParsePolicyText(absl::string_view text,
                                                         absl::string_view origin) {
  if (text.size() > kMaxPolicyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": ", text.size(), " bytes; accepted are up to ", kMaxPolicyBytes));
  }
  std::vector<SyscallRule> rules;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view content = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (content.empty()) continue;
    absl::StatusOr<SyscallRule> rule = ParseRule(content);
    if (!rule.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin, ", line ", number, ": ", rule.status().message()));
    }
    rule->line = number;
    rules.push_back(*std::move(rule));
  }
  return rules;
}

}  // namespace bulkhead::vmm
