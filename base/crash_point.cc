#include "base/crash_point.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/pid_fd.h"

// The linker names both ends of a section. Weak: a program may have no crash point at all.
// NOLINTBEGIN(bugprone-reserved-identifier): the linker's names
extern "C" {
__attribute__((weak, visibility("hidden"))) extern const char __start_bulkhead_crash_points[];
__attribute__((weak, visibility("hidden"))) extern const char __stop_bulkhead_crash_points[];
}
// NOLINTEND(bugprone-reserved-identifier)

namespace bulkhead {
namespace crash_point_internal {
namespace {
char wanted_name[64];
uint64_t times_left = 0;
}  // namespace

bool armed = false;

void Reach(const char* name) {
  if (strcmp(name, wanted_name) != 0 || --times_left != 0) return;
  kill(getpid(), SIGKILL);
  // Still here: as init of its PID namespace a process cannot kill itself.
  _exit(kSignalExitCode + SIGKILL);
}

}  // namespace crash_point_internal

std::vector<std::string> CrashPointNames() {
  std::set<std::string> names;  // one place may have been compiled twice
  const char* next = __start_bulkhead_crash_points;
  while (next < __stop_bulkhead_crash_points) {
    if (*next != '\0') names.insert(next);
    next += strlen(next) + 1;
  }
  return {names.begin(), names.end()};
}

absl::Status ArmCrashPoint(absl::string_view spec, uint64_t generation) {
  using crash_point_internal::wanted_name;
  crash_point_internal::armed = false;
  if (spec.empty()) return absl::OkStatus();
  const std::vector<std::string> names = CrashPointNames();
  const std::set<std::string> known(names.begin(), names.end());
  for (const absl::string_view one : absl::StrSplit(spec, ',')) {
    const std::vector<std::string> parts = absl::StrSplit(one, ':');
    uint64_t count = 1;
    uint64_t only_generation = generation;
    bool valid = parts.size() <= 3 && parts[0].size() < sizeof(wanted_name);
    if (parts.size() > 1) valid = valid && absl::SimpleAtoi(parts[1], &count) && count != 0;
    if (parts.size() > 2) valid = valid && absl::SimpleAtoi(parts[2], &only_generation);
    if (!valid || known.count(parts[0]) == 0) {
      crash_point_internal::armed = false;
      return absl::InvalidArgumentError(
          absl::StrCat("crash point '", one, "': expected NAME[:COUNT[:GENERATION]], NAME one of ",
                       absl::StrJoin(names, ", ")));
    }
    if (crash_point_internal::armed || only_generation != generation) continue;
    memcpy(wanted_name, parts[0].c_str(), parts[0].size() + 1);
    crash_point_internal::times_left = count;
    crash_point_internal::armed = true;
  }
  return absl::OkStatus();
}

}  // namespace bulkhead
