#include "vmm/vcpu/thread_times.h"

#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {
namespace {

// Counted from the field after the name, which is number 3 of proc(5).
constexpr size_t kUserTime = 14 - 3;
constexpr size_t kSystemTime = 15 - 3;
constexpr size_t kGuestTime = 43 - 3;

}  // namespace

std::optional<ThreadTimes> ParseThreadTimes(absl::string_view stat, int ticks_per_second) {
  // The name is in parentheses and may have more of them, and spaces.
  const size_t name_end = stat.rfind(") ");
  if (name_end == absl::string_view::npos || ticks_per_second <= 0) return std::nullopt;
  const std::vector<absl::string_view> fields =
      absl::StrSplit(stat.substr(name_end + 2), absl::ByAnyChar(" \n"));
  uint64_t user = 0;
  uint64_t system = 0;
  uint64_t guest = 0;
  if (fields.size() <= kGuestTime || !absl::SimpleAtoi(fields[kUserTime], &user) ||
      !absl::SimpleAtoi(fields[kSystemTime], &system) ||
      !absl::SimpleAtoi(fields[kGuestTime], &guest)) {
    return std::nullopt;
  }
  const absl::Duration tick = absl::Seconds(1) / ticks_per_second;
  return ThreadTimes{.processor = tick * static_cast<int64_t>(user + system),
                     .guest = tick * static_cast<int64_t>(guest)};
}

std::optional<ThreadTimes> ReadThreadTimes(pid_t thread) {
  const std::string path = absl::StrCat("/proc/self/task/", thread, "/stat");
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[2048];
  const ssize_t size = fd.ok() ? read(fd.get(), text, sizeof(text)) : -1;
  if (size <= 0) return std::nullopt;
  return ParseThreadTimes(absl::string_view(text, static_cast<size_t>(size)),
                          static_cast<int>(sysconf(_SC_CLK_TCK)));
}

}  // namespace bulkhead::vmm
