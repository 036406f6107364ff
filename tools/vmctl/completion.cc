#include "tools/vmctl/completion.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "proto/control_socket.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/discovery.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/standard_output.h"

namespace bulkhead::vmctl {
namespace {

// The script does nothing but ask this program, so it fits every version of it. Aliases and
// relative paths do not lead to a program from everywhere: then it asks the one that printed it.
constexpr char kBashScript[] = R"script(# bash completion of vmctl: source <(vmctl completion bash)
_vmctl() {
  local program=${1/#\~/$HOME} candidate
  type -P -- "$program" >/dev/null || program=@PROGRAM@
  local -a candidates
  mapfile -t candidates < <("$program" __complete "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null)
  COMPREPLY=()
  for candidate in "${candidates[@]}"; do
    if [[ $candidate == @files ]]; then
      compopt -o filenames 2>/dev/null
      mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "${2#=}")
    else
      COMPREPLY+=("$candidate")
    fi
  done
}
complete -F _vmctl vmctl
)script";

// What stands before the cursor, read as far as it can be.
struct Context {
  const FlagInfo* wants_value = nullptr;  // the cursor is at this flag's value
  std::vector<std::string> words;         // no flags, no values: command and arguments
  CompletionTarget target;
};

const FlagInfo* FlagOf(absl::string_view word) {
  return absl::ConsumePrefix(&word, "--") ? FindFlag(word) : nullptr;
}

void ReadValue(Flag flag, const std::string& value, CompletionTarget& target) {
  absl::Duration timeout;
  if (flag == kVmFlag) target.vm = value;
  if (flag == kSocketFlag) target.socket = value;
  if (flag == kTimeoutFlag && absl::ParseDuration(value, &timeout)) target.timeout = timeout;
}

Context Read(size_t cursor, const std::vector<std::string>& words) {
  Context context;
  for (size_t i = 1; i < cursor; ++i) {
    const std::string& word = words[i];
    if (word == "=" && context.wants_value != nullptr) continue;
    if (context.wants_value != nullptr) {
      ReadValue(context.wants_value->flag, word, context.target);
      context.wants_value = nullptr;
      continue;
    }
    const FlagInfo* flag = FlagOf(word);
    if (flag != nullptr && !flag->value.empty()) {
      context.wants_value = flag;
    } else if (!absl::StartsWith(word, "-")) {
      context.words.push_back(word);
    }
  }
  return context;
}

std::vector<std::string> ValuesOf(const FlagInfo& flag, const LiveNames& live) {
  switch (flag.flag) {
    case kVmFlag:
      return live.vms();
    case kSocketFlag:
    case kBinaryFlag:
    case kOutputFlag:
      return {std::string(kFilesCandidate)};
    case kEscapeFlag:
      return {"^]", "none"};
    default:
      return {};
  }
}

// The first words of all commands, or with `first` the second ones.
std::vector<std::string> CommandWords() {
  std::vector<std::string> words;
  for (const Command& command : Commands()) {
    std::string word(command.name.substr(0, command.name.find(' ')));
    if (words.empty() || words.back() != word) words.push_back(std::move(word));
  }
  return words;
}

std::vector<std::string> FlagWords(uint32_t flags) {
  std::vector<std::string> words;
  for (const FlagInfo& info : AllFlags()) {
    if ((flags & info.flag) != 0) words.push_back(absl::StrCat("--", info.name));
  }
  return words;
}

// The command that `words` begin with, and how many of them it takes; null: not yet one.
const Command* CommandOf(const std::vector<std::string>& words, size_t& used) {
  for (used = 2; used >= 1; --used) {
    if (words.size() < used) continue;
    const std::string name = used == 2 ? absl::StrCat(words[0], " ", words[1]) : words[0];
    if (const Command* command = FindCommand(name)) return command;
  }
  return nullptr;
}

std::vector<std::string> Arguments(const Command& command, size_t given, const Context& context,
                                   const LiveNames& live) {
  if (command.argument == Argument::kOptionalCommand) {
    if (given == 0) return CommandWords();
    const std::vector<absl::string_view> words = Subcommands(context.words[1]);
    return given == 1 ? std::vector<std::string>(words.begin(), words.end())
                      : std::vector<std::string>();
  }
  if (command.argument == Argument::kDeviceAndLink && given == 1) return {"up", "down"};
  if (given > 0) return {};
  switch (command.argument) {
    case Argument::kDevice:
    case Argument::kDeviceAndLink:
    case Argument::kOptionalDevice:
    case Argument::kDeviceAndSize:
    case Argument::kDeviceAndLimits:
      return live.devices(context.target);
    case Argument::kShell:
      return {"bash"};
    default:
      return {};
  }
}

std::vector<std::string> Candidates(absl::string_view current, const Context& context,
                                    const LiveNames& live) {
  if (context.wants_value != nullptr) return ValuesOf(*context.wants_value, live);
  size_t used = 0;
  const Command* command = CommandOf(context.words, used);
  if (absl::StartsWith(current, "-")) {
    return FlagWords(command == nullptr ? kVmFlags : command->flags);
  }
  if (command != nullptr) {
    return Arguments(*command, context.words.size() - used, context, live);
  }
  if (context.words.empty()) return CommandWords();
  const std::vector<absl::string_view> words = Subcommands(context.words[0]);
  return context.words.size() == 1 ? std::vector<std::string>(words.begin(), words.end())
                                   : std::vector<std::string>();
}

std::vector<std::string> RunningNames() {
  std::vector<std::string> names;
  for (const VmAddress& vm : FindRunningVms(RuntimeDirectories()).vms) names.push_back(vm.name);
  return names;
}

std::vector<std::string> DeviceNames(const CompletionTarget& target) {
  const absl::StatusOr<VmAddress> address =
      target.socket.empty() ? ChooseVm(FindRunningVms(RuntimeDirectories()), target.vm)
                            : VmBehindSocket(target.socket);
  if (!address.ok()) return {};
  const absl::StatusOr<std::unique_ptr<VmClient>> client =
      VmClient::Connect(*address, target.timeout);
  if (!client.ok()) return {};
  const absl::StatusOr<v1::ListDevicesReply> list = (*client)->ListDevices();
  if (!list.ok()) return {};
  std::vector<std::string> names;
  for (const v1::Device& device : list->devices()) names.push_back(device.name());
  return names;
}

std::string ShellQuoted(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", R"('\'')"}}), "'");
}

}  // namespace

std::vector<std::string> Complete(size_t cursor, const std::vector<std::string>& words,
                                  const LiveNames& live) {
  if (cursor == 0 || cursor > words.size()) return {};
  const Context context = Read(cursor, words);
  // Right behind "--vm=" the word at the cursor is the '=' itself.
  std::string current = cursor < words.size() ? words[cursor] : "";
  if (current == "=" && context.wants_value != nullptr) current.clear();
  std::vector<std::string> candidates = Candidates(current, context, live);
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [&](const std::string& candidate) {
                                    return candidate != kFilesCandidate &&
                                           !absl::StartsWith(candidate, current);
                                  }),
                   candidates.end());
  return candidates;
}

int RunComplete(int argc, char** argv) {
  size_t cursor = 0;
  if (argc < 3 || !absl::SimpleAtoi(argv[2], &cursor)) return kUsage;
  std::string text;
  for (const std::string& candidate : Complete(
           cursor, std::vector<std::string>(argv + 3, argv + argc), {RunningNames, DeviceNames})) {
    absl::StrAppend(&text, candidate, "\n");
  }
  return Print(text);
}

ExitCode RunCompletion(const Invocation& invocation) {
  if (invocation.argument != "bash") {
    return Fail(kUsage, absl::StrCat("completion: \"", invocation.argument,
                                     "\" is not a supported shell; give bash"));
  }
  char self[PATH_MAX] = {};
  const ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  const absl::string_view program(self, length < 0 ? 0 : static_cast<size_t>(length));
  return Print(absl::StrReplaceAll(kBashScript, {{"@PROGRAM@", ShellQuoted(program)}}));
}

}  // namespace bulkhead::vmctl
