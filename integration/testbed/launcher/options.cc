#include "integration/testbed/launcher/options.h"

#include <sys/stat.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace bulkhead::testbed {
namespace {

absl::Status BadValue(absl::string_view flag, absl::string_view value, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(flag, "=", value, ": ", why));
}

absl::StatusOr<absl::Duration> ParseTimeout(absl::string_view value) {
  absl::Duration timeout;
  if (!absl::ParseDuration(value, &timeout) || timeout < absl::ZeroDuration()) {
    return BadValue("--timeout", value, "not a duration such as 90s or 10m");
  }
  return timeout == absl::ZeroDuration() ? absl::InfiniteDuration() : timeout;
}

absl::StatusOr<int> ParseCpus(absl::string_view value) {
  constexpr int kMaxCpus = 64;
  int cpus;
  if (!absl::SimpleAtoi(value, &cpus) || cpus < 1 || cpus > kMaxCpus) {
    return BadValue("--cpus", value, absl::StrCat("not a number from 1 to ", kMaxCpus));
  }
  return cpus;
}

absl::StatusOr<int> ParseMemoryMib(absl::string_view value) {
  constexpr int kMinMib = 256;  // Debian's kernel and the file system overlay
  absl::string_view number = value;
  const int mib_per_unit = absl::ConsumeSuffix(&number, "G")   ? 1024
                           : absl::ConsumeSuffix(&number, "M") ? 1
                                                               : 0;
  int count;
  if (mib_per_unit == 0 || !absl::SimpleAtoi(number, &count) || count < 1 ||
      count > INT_MAX / 1024) {
    return BadValue("--memory", value, "not a size such as 512M or 2G");
  }
  struct sysinfo host;
  sysinfo(&host);
  const uint64_t host_mib = host.totalram * host.mem_unit >> 20;
  const int mib = count * mib_per_unit;
  if (mib < kMinMib || static_cast<uint64_t>(mib) > host_mib) {
    return BadValue("--memory", value,
                    absl::StrCat("outside ", kMinMib, "M and the host's ", host_mib, "M"));
  }
  return mib;
}

absl::StatusOr<std::string> ParseFolder(absl::string_view value) {
  char resolved[PATH_MAX];
  struct stat info;
  if (realpath(std::string(value).c_str(), resolved) == nullptr || stat(resolved, &info) != 0 ||
      !S_ISDIR(info.st_mode)) {
    return BadValue("--writable", value, "no such folder");
  }
  // QEMU's options are separated by commas.
  if (absl::string_view(resolved).find(',') != absl::string_view::npos) {
    return BadValue("--writable", value, "the path has a comma");
  }
  return std::string(resolved);
}

bool TakesValue(absl::string_view flag) {
  return flag == "--timeout" || flag == "--cpus" || flag == "--memory" || flag == "--writable";
}

// Sorted, without those that lie below another.
void DropNested(std::vector<std::string>& folders) {
  std::sort(folders.begin(), folders.end());
  std::vector<std::string> kept;
  for (const std::string& folder : folders) {
    const bool nested = std::any_of(kept.begin(), kept.end(), [&](const std::string& above) {
      return folder == above || absl::StartsWith(folder, absl::StrCat(above, "/"));
    });
    if (!nested) kept.push_back(folder);
  }
  folders = std::move(kept);
}

}  // namespace

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  size_t next = 0;
  for (; next < arguments.size(); ++next) {
    const std::string& argument = arguments[next];
    if (argument == "--") {
      ++next;
      break;
    }
    if (argument.empty() || argument[0] != '-') break;
    std::pair<absl::string_view, absl::string_view> flag =
        absl::StrSplit(argument, absl::MaxSplits('=', 1));
    if (TakesValue(argument)) {  // "--flag VALUE", in two words
      if (++next == arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat(argument, ": no value"));
      }
      flag.second = arguments[next];
    }
    if (argument == "--help") {
      options.help = true;
      return options;
    } else if (argument == "--verbose") {
      options.verbose = true;
    } else if (argument == "--cold-boot") {
      options.cold_boot = true;
    } else if (argument == "--show-console") {
      options.show_console = true;
    } else if (flag.first == "--timeout") {
      ASSIGN_OR_RETURN(options.timeout, ParseTimeout(flag.second));
    } else if (flag.first == "--cpus") {
      ASSIGN_OR_RETURN(options.cpus, ParseCpus(flag.second));
    } else if (flag.first == "--memory") {
      ASSIGN_OR_RETURN(options.memory_mib, ParseMemoryMib(flag.second));
    } else if (flag.first == "--writable") {
      ASSIGN_OR_RETURN(std::string folder, ParseFolder(flag.second));
      options.writable_folders.push_back(std::move(folder));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag ", argument));
    }
  }
  DropNested(options.writable_folders);
  options.command.assign(arguments.begin() + next, arguments.end());
  if (options.command.empty()) return absl::InvalidArgumentError("no command; see --help");
  return options;
}

}  // namespace bulkhead::testbed
