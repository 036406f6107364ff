#include "tools/vmctl/command_line.h"

#include <getopt.h>
#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace bulkhead::vmctl {
namespace {

constexpr absl::string_view kUnits = "KMGT";
constexpr size_t kMostLimits = 4;  // of one device

absl::Status Wrong(const Command* command, absl::string_view problem) {
  const absl::string_view name = command == nullptr ? "" : command->name;
  return absl::InvalidArgumentError(absl::StrCat(name, name.empty() ? "" : ": ", problem,
                                                 "; see vmctl ", name, name.empty() ? "" : " ",
                                                 "--help"));
}

absl::Status SetTimeout(const Command* command, const std::string& value, Invocation& invocation) {
  if (!absl::ParseDuration(value, &invocation.timeout) ||
      invocation.timeout <= absl::ZeroDuration()) {
    return Wrong(command, absl::StrCat("--timeout: \"", value,
                                       "\" is not a time; give one as 500ms, 10s or inf"));
  }
  return absl::OkStatus();
}

// With one of `units`, of which each is 1024 times the one before; or without.
std::optional<uint64_t> ParseNumber(absl::string_view text, absl::string_view units) {
  uint64_t unit = 1;
  for (size_t i = 0; i < units.size(); ++i) {
    if (absl::ConsumeSuffix(&text, units.substr(i, 1))) unit = uint64_t{1} << (10 * (i + 1));
    if (unit != 1) break;
  }
  uint64_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number > INT64_MAX / unit) return std::nullopt;
  return number * unit;
}

absl::Status SetSize(const Command* command, const std::string& value, Invocation& invocation) {
  const std::optional<uint64_t> size = ParseNumber(value, kUnits);
  if (!size.has_value() || *size == 0) {
    return Wrong(command, absl::StrCat("\"", value, "\" is not a size; give one as 512M or 20G"));
  }
  invocation.size_bytes = *size;
  return absl::OkStatus();
}

absl::Status SetBalloon(const Command* command, const std::string& value, Invocation& invocation) {
  invocation.balloon_bytes = ParseNumber(value, kUnits);
  if (invocation.balloon_bytes.has_value()) return absl::OkStatus();
  return Wrong(command, absl::StrCat("\"", value, "\" is not a size; give one as 512M, 2G or 0"));
}

absl::Status SetLimit(const Command* command, const std::string& word, Limits& limits) {
  const struct {
    absl::string_view name;
    std::optional<uint64_t>& limit;
    absl::string_view units;
  } kLimits[] = {{"bps=", limits.bps, kUnits},
                 {"iops=", limits.iops, ""},
                 {"bps-burst=", limits.bps_burst, kUnits},
                 {"iops-burst=", limits.iops_burst, ""},
                 {"pps=", limits.pps, ""},
                 {"pps-burst=", limits.pps_burst, ""}};
  for (const auto& each : kLimits) {
    absl::string_view value = word;
    if (!absl::ConsumePrefix(&value, each.name)) continue;
    each.limit = ParseNumber(value, each.units);
    if (each.limit.has_value()) return absl::OkStatus();
    return Wrong(command, absl::StrCat("\"", word, "\" is not a whole number",
                                       each.units.empty() ? "" : "; give it as 500K, 20M or 1G"));
  }
  return Wrong(command,
               absl::StrCat("\"", word, "\" is unknown; give bps=, iops=, pps=, bps-burst=, ",
                            "iops-burst= or pps-burst="));
}

absl::Status SetInterval(const Command* command, const std::string& value, Invocation& invocation) {
  // Each sample asks all devices.
  constexpr absl::Duration kShortest = absl::Milliseconds(100);
  constexpr absl::Duration kLongest = absl::Hours(24);
  if (absl::ParseDuration(value, &invocation.interval) && invocation.interval >= kShortest &&
      invocation.interval <= kLongest) {
    return absl::OkStatus();
  }
  return Wrong(command, absl::StrCat("--interval: \"", value,
                                     "\" is not a time of 100ms to 24h; give one as 500ms or 5s"));
}

absl::Status SetCount(const Command* command, const std::string& value, Invocation& invocation) {
  const std::optional<uint64_t> count = ParseNumber(value, "");
  if (!count.has_value() || *count == 0) {
    return Wrong(command, absl::StrCat("--count: \"", value, "\" is not a number from 1 on"));
  }
  invocation.count = *count;
  return absl::OkStatus();
}

absl::Status SetEscape(const Command* command, const std::string& value, Invocation& invocation) {
  if (value == "none") {
    invocation.escape = -1;
    return absl::OkStatus();
  }
  // As stty and telnet write control characters.
  if (value.size() == 2 && value[0] == '^' &&
      ((value[1] >= '@' && value[1] <= '_') || absl::ascii_islower(value[1]))) {
    invocation.escape = value[1] & 0x1f;
    return absl::OkStatus();
  }
  return Wrong(command, absl::StrCat("--escape: \"", value,
                                     "\" is not a control key; give one as ^] or ^A, or none"));
}

absl::Status Apply(const Command* command, Flag flag, const std::string& value,
                   Invocation& invocation) {
  switch (flag) {
    case kVmFlag:
      if (value.empty() || value.find('/') != std::string::npos) {
        return Wrong(command, absl::StrCat("--vm: \"", value,
                                           "\" is not a VM's name; a path goes with --socket"));
      }
      invocation.vm = value;
      break;
    case kSocketFlag:
      if (value.empty()) return Wrong(command, "--socket: the path is empty");
      invocation.socket = value;
      break;
    case kTimeoutFlag:
      return SetTimeout(command, value, invocation);
    case kHelpFlag:
      invocation.help = true;
      break;
    case kJsonFlag:
      invocation.json = true;
      break;
    case kBinaryFlag:
      if (value.empty()) return Wrong(command, "--binary: the path is empty");
      invocation.binary = value;
      break;
    case kDiscardStateFlag:
      invocation.discard_state = true;
      break;
    case kFollowFlag:
      invocation.follow = true;
      break;
    case kVerboseFlag:
      invocation.verbose = true;
      break;
    case kWaitFlag:
      invocation.wait = true;
      break;
    case kNoWaitFlag:
      invocation.no_wait = true;
      break;
    case kReportErrorsFlag:
      invocation.report_errors = true;
      break;
    case kListenFlag:
      if (value.empty()) return Wrong(command, "--listen: the address is empty");
      invocation.listen = value;
      break;
    case kIntervalFlag:
      return SetInterval(command, value, invocation);
    case kCountFlag:
      return SetCount(command, value, invocation);
    case kOnceFlag:
      invocation.count = 1;
      break;
    case kAllowRemoteFlag:
      invocation.allow_remote = true;
      break;
    case kSecondsFlag:
      if (absl::SimpleAtoi(value, &invocation.seconds) && invocation.seconds >= 1 &&
          invocation.seconds <= 600) {
        break;
      }
      return Wrong(command,
                   absl::StrCat("--seconds: \"", value, "\" is not a whole number from 1 to 600"));
    case kOutputFlag:
      if (value.empty()) return Wrong(command, "--output: the path is empty");
      invocation.output = value;
      break;
    case kEscapeFlag:
      return SetEscape(command, value, invocation);
  }
  return absl::OkStatus();
}

// The options of a set of flags for getopt_long(). Values are the flags' bits.
struct GetoptTables {
  explicit GetoptTables(uint32_t flags, const char* mode) : letters(mode) {
    for (const FlagInfo& info : AllFlags()) {
      if ((flags & info.flag) == 0) continue;
      options.push_back({info.name, info.value.empty() ? no_argument : required_argument, nullptr,
                         static_cast<int>(info.flag)});
      if (info.letter == 0) continue;
      letters.push_back(info.letter);
      if (!info.value.empty()) letters.push_back(':');
    }
    options.push_back({nullptr, 0, nullptr, 0});
  }

  std::vector<option> options;
  std::string letters;
};

// Scans `arguments` (the first is skipped), and appends what is no flag to `words`. With `mode`
// "+:" it ends at the first such word; "-:" takes them wherever they stand. Returns the number of
// arguments that were dealt with.
absl::StatusOr<int> Scan(const Command* command, uint32_t flags, const char* mode,
                         std::vector<char*> arguments, Invocation& invocation,
                         std::vector<std::string>& words) {
  const GetoptTables tables(flags, mode);
  const int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  optind = 0;  // a fresh scan
  opterr = 0;
  int found;
  while ((found = getopt_long(count, arguments.data(), tables.letters.c_str(),
                              tables.options.data(), nullptr)) != -1) {
    if (found == 1) {
      words.emplace_back(optarg);
      continue;
    }
    if (found == ':') return Wrong(command, absl::StrCat(arguments[optind - 1], " needs a value"));
    if (found == '?') {
      // A letter is in optopt; then optind may still be at its group.
      const bool is_letter = optopt > 0 && optopt < 256;
      const std::string text = is_letter
                                   ? absl::StrCat("-", std::string(1, static_cast<char>(optopt)))
                                   : std::string(arguments[optind - 1]);
      return Wrong(command, optopt >= 256 ? absl::StrCat(text, " takes no value")
                                          : absl::StrCat(text, " is unknown here, or ambiguous"));
    }
    Flag flag = static_cast<Flag>(found);
    for (const FlagInfo& info : AllFlags()) {
      if (info.letter != 0 && found == info.letter) flag = info.flag;
    }
    RETURN_IF_ERROR(Apply(command, flag, optarg == nullptr ? "" : optarg, invocation));
  }
  return optind;
}

absl::string_view ArgumentName(Argument argument) {
  switch (argument) {
    case Argument::kDevice:
    case Argument::kOptionalDevice:
    case Argument::kDeviceAndSize:
    case Argument::kDeviceAndLimits:
      return "the device's NAME";
    case Argument::kDeviceAndLink:
      return "the device's NAME, and up or down";
    case Argument::kShell:
      return "the shell: bash";
    default:
      return "";
  }
}

absl::Status TakeArguments(const std::vector<std::string>& words, Invocation& invocation) {
  const Command& command = *invocation.command;
  const bool with_link = command.argument == Argument::kDeviceAndLink;
  const bool has_size = command.argument == Argument::kDeviceAndSize;
  const bool has_limits = command.argument == Argument::kDeviceAndLimits;
  const bool required = with_link || has_size || has_limits ||
                        command.argument == Argument::kDevice ||
                        command.argument == Argument::kShell;
  size_t limit = command.argument == Argument::kNone ? 0 : 1;
  if (with_link || has_size || command.argument == Argument::kOptionalCommand) limit = 2;
  if (has_limits) limit = 1 + kMostLimits;
  if (words.size() > limit) {
    return Wrong(&command, absl::StrCat("\"", words[limit], "\" is one argument too many"));
  }
  if (words.empty() || (with_link && words.size() < 2)) {
    if (!required || invocation.help) return absl::OkStatus();
    return Wrong(&command, absl::StrCat("give ", ArgumentName(command.argument)));
  }
  if (words[0].empty()) return Wrong(&command, "the argument is empty");
  if (with_link) {
    if (words[1] != "up" && words[1] != "down") {
      return Wrong(&command,
                   absl::StrCat("\"", words[1], "\" is no state of a link; give up or down"));
    }
    invocation.link_up = words[1] == "up";
    invocation.argument = words[0];
    return absl::OkStatus();
  }
  if (command.argument == Argument::kOptionalSize) {
    return SetBalloon(&command, words[0], invocation);
  }
  if (has_size) {
    invocation.argument = words[0];
    return words.size() == 1 ? absl::OkStatus() : SetSize(&command, words[1], invocation);
  }
  if (has_limits) {
    invocation.argument = words[0];
    if (words.size() == 1) return Wrong(&command, "give a limit, such as iops=500");
    for (size_t i = 1; i < words.size(); ++i) {
      RETURN_IF_ERROR(SetLimit(&command, words[i], invocation.limits));
    }
    return absl::OkStatus();
  }
  invocation.argument = absl::StrJoin(words, " ");
  return absl::OkStatus();
}

bool AsksForHelp(absl::string_view word) { return word == "--help" || word == "-h"; }

// Finds the command that `words` begin with; `used`: how many of them name it. Null: they ask for
// vmctl's own help.
absl::StatusOr<const Command*> TakeCommand(const std::vector<char*>& words, size_t& used) {
  const std::string first = words[0];
  const std::vector<absl::string_view> subcommands = Subcommands(first);
  if (!subcommands.empty()) {
    const std::string second = words.size() > 1 ? words[1] : "";
    used = 2;
    if (const Command* command = FindCommand(absl::StrCat(first, " ", second))) return command;
    if (AsksForHelp(second)) return nullptr;
    if (second.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(first, ": no action given; give one of ",
                                                     absl::StrJoin(subcommands, ", "),
                                                     "; see vmctl --help"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(first, ": \"", second, "\" is unknown; give one of ",
                     absl::StrJoin(subcommands, ", "), "; see vmctl --help"));
  }
  used = 1;
  if (const Command* command = FindCommand(first)) return command;
  return Wrong(nullptr, absl::StrCat("\"", first, "\" is not a command"));
}

}  // namespace

absl::StatusOr<Invocation> ParseCommandLine(int argc, char** argv) {
  Invocation invocation;
  invocation.timeout = absl::ZeroDuration();
  std::vector<char*> arguments(argv, argv + argc);
  std::vector<std::string> none;
  ASSIGN_OR_RETURN(const int begin, Scan(nullptr, kVmFlags, "+:", arguments, invocation, none));
  arguments.erase(arguments.begin(), arguments.begin() + begin);
  if (arguments.empty()) {
    if (invocation.help) return invocation;
    return Wrong(nullptr, "no command given");
  }
  size_t used = 0;
  ASSIGN_OR_RETURN(invocation.command, TakeCommand(arguments, used));
  if (invocation.command == nullptr) {
    invocation.help = true;
    return invocation;
  }
  const Command& command = *invocation.command;
  // Its last word takes the place of argv[0].
  arguments.erase(arguments.begin(), arguments.begin() + static_cast<int>(used) - 1);
  std::vector<std::string> words;
  const size_t given = arguments.size();
  ASSIGN_OR_RETURN(const int end,
                   Scan(&command, command.flags | kHelpFlag, "-:", arguments, invocation, words));
  // What follows "--".
  for (size_t i = static_cast<size_t>(end); i < given; ++i) words.emplace_back(arguments[i]);
  RETURN_IF_ERROR(TakeArguments(words, invocation));
  if (!invocation.vm.empty() && !invocation.socket.empty()) {
    return Wrong(&command, "--vm and --socket both name the VM; give one of them");
  }
  invocation.has_timeout = invocation.timeout != absl::ZeroDuration();
  if (!invocation.has_timeout) invocation.timeout = command.timeout;
  return invocation;
}

}  // namespace bulkhead::vmctl
