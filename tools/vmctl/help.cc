#include "tools/vmctl/help.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/standard_output.h"

namespace bulkhead::vmctl {
namespace {

constexpr char kIntroduction[] =
    R"(usage: vmctl [--vm NAME | --socket PATH] COMMAND [ARGUMENT] [FLAG...]
       vmctl --version

Operates a running Bulkhead VM over its control socket.

)";

constexpr char kWhichVm[] = R"(
Which VM
  The only one that runs, else --vm NAME or --socket PATH. `vmctl list` shows them.
  PATH may be a monitor socket: then the VM can be watched, but neither changed nor typed to.

)";

constexpr char kExitCodes[] = R"(
Exit codes
  0 done                                       3 no such VM runs, or it cannot be reached
  1 the VM refused, or the call failed         4 no such device
  2 wrong usage, or several VMs run and        5 no answer within --timeout; the command may
    none is named                                still take effect
)";

constexpr char kExamples[] = R"(
Examples
  vmctl status
  vmctl devices
  vmctl events --follow
  vmctl device restart disk0 --binary /opt/bulkhead/2.0/virtio_blk
  vmctl console
  vmctl shutdown --wait

vmctl COMMAND --help has details and examples.
)";

absl::string_view ArgumentText(Argument argument) {
  switch (argument) {
    case Argument::kNone:
      return "";
    case Argument::kDevice:
      return " NAME";
    case Argument::kDeviceAndLink:
      return " NAME up|down";
    case Argument::kOptionalDevice:
      return " [NAME]";
    case Argument::kOptionalSize:
      return " [SIZE]";
    case Argument::kDeviceAndSize:
      return " NAME [SIZE]";
    case Argument::kDeviceAndLimits:
      return " NAME LIMIT...";
    case Argument::kShell:
      return " bash";
    case Argument::kOptionalCommand:
      return " [COMMAND]";
  }
  return "";
}

std::string FlagLines(uint32_t flags) {
  std::string text;
  for (const FlagInfo& info : AllFlags()) {
    if ((flags & info.flag) == 0) continue;
    std::string name = info.letter == 0 ? "" : absl::StrCat("-", std::string(1, info.letter), ", ");
    absl::StrAppend(&name, "--", info.name, info.value.empty() ? "" : " ", info.value);
    absl::StrAppendFormat(&text, "  %-22s %s\n", name, info.help);
  }
  return text;
}

}  // namespace

std::string GeneralHelp() {
  std::string text = absl::StrCat(kIntroduction, "Commands\n");
  for (const Command& command : Commands()) {
    absl::StrAppendFormat(&text, "  %-27s %s\n",
                          absl::StrCat(command.name, ArgumentText(command.argument)),
                          command.summary);
  }
  absl::StrAppend(&text, kWhichVm, "Flags of most commands\n", FlagLines(kVmFlags | kJsonFlag),
                  kExitCodes, kExamples);
  return text;
}

std::string CommandHelp(const Command& command) {
  std::string text =
      absl::StrCat("usage: vmctl ", command.name, ArgumentText(command.argument), " [FLAG...]\n\n",
                   command.summary, "\n\n", command.details, "\nFlags\n", FlagLines(command.flags));
  if ((command.flags & kTimeoutFlag) != 0) {
    absl::StrAppend(&text, "\n--timeout has the default ", absl::FormatDuration(command.timeout),
                    ". Exit codes: vmctl --help.\n");
  }
  return text;
}

ExitCode RunHelp(const Invocation& invocation) {
  if (invocation.argument.empty()) return Print(GeneralHelp());
  const Command* command = FindCommand(invocation.argument);
  if (command != nullptr) return Print(CommandHelp(*command));
  if (!Subcommands(invocation.argument).empty()) return Print(GeneralHelp());
  return Fail(kUsage,
              absl::StrCat("\"", invocation.argument, "\" is not a command; see vmctl --help"));
}

}  // namespace bulkhead::vmctl
