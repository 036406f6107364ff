#ifndef BULKHEAD_TOOLS_VMCTL_COMMAND_H_
#define BULKHEAD_TOOLS_VMCTL_COMMAND_H_

#include <stdint.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "tools/vmctl/exit_code.h"
#include "tools/vmctl/flags.h"

namespace bulkhead::vmctl {

struct Invocation;

// What a command's argument stands for.
enum class Argument {
  kNone,
  kDevice,
  kDeviceAndLink,
  kDeviceAndSize,
  kDeviceAndLimits,
  kOptionalDevice,
  kOptionalSize,
  kShell,
  kOptionalCommand,
};

// One of vmctl's commands: all that parsing, help and completion need, and what it does.
struct Command {
  absl::string_view name;  // "status", "device restart"
  absl::string_view summary;
  uint32_t flags;  // of Flag
  Argument argument = Argument::kNone;
  absl::Duration timeout = absl::Seconds(10);  // unless --timeout says otherwise
  absl::string_view details;                   // for --help: whole lines, examples last
  ExitCode (*run)(const Invocation& invocation) = nullptr;
};

// Those that were given.
struct Limits {
  std::optional<uint64_t> bps;
  std::optional<uint64_t> iops;
  std::optional<uint64_t> bps_burst;
  std::optional<uint64_t> iops_burst;
  std::optional<uint64_t> pps;
  std::optional<uint64_t> pps_burst;
};

// A command line that was understood.
struct Invocation {
  const Command* command = nullptr;  // null: --help of vmctl itself
  bool help = false;
  bool json = false;
  bool verbose = false;
  bool follow = false;
  bool wait = false;
  bool no_wait = false;
  bool discard_state = false;
  bool report_errors = false;
  bool allow_remote = false;
  std::string listen;  // empty: not to
  absl::Duration interval = absl::Seconds(2);
  uint64_t count = 0;  // of samples; 0: no limit
  std::string vm;      // empty: the only one
  std::string socket;  // empty: by name
  std::string binary;
  std::string output;
  int seconds = 10;        // of a trace
  bool link_up = false;    // of a device's link
  int escape = 0x1d;       // the key that leaves the console; -1: none
  absl::Duration timeout;  // --timeout, or the command's
  bool has_timeout = false;
  std::string argument;     // the device; empty: none given
  uint64_t size_bytes = 0;  // of `device resize`, 0: none given
  std::optional<uint64_t> balloon_bytes;
  Limits limits;
};

// All of them, in the order of the help text.
absl::Span<const Command> Commands();

// The command of exactly that name, or null.
const Command* FindCommand(absl::string_view name);

// The names of the commands that consist of `word` and one more: "show", "restart", ...
std::vector<absl::string_view> Subcommands(absl::string_view word);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_COMMAND_H_
